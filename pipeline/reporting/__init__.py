"""Reports of comparisons: sentences, tables, figures, pages."""
