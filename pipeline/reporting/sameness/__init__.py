"""What proves, or refutes, that trainings are the same: sentences and tables."""
