"""The server of a finished run or an export: HTTP in, the lines of `predict` out."""
