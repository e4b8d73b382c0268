"""What may be released: rules by grade. The gate that enforces them in every cell is not built yet."""
