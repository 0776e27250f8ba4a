"""Reading a website: its HTML, its picture, its colours, and the names of what is seen."""
