"""Reading real video files, cutting them, and finding the moment worth clipping."""
