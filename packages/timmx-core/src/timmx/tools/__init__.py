"""What one does with an artifact: each tool is a room of its own."""
