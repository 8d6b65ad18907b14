"""Two data sets' cameras side by side."""
