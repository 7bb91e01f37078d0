"""`oleaster data ...`: looking at rows, cleaning, dividing and multiplying them."""
