"""From a record to text, pages and figures, and the lines that the terminal shows while it is made."""
