"""How figures are drawn: styles and axes, the figure with its texts, and SVG from it."""
