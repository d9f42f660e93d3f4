"""What is on a worker's terminal: its transcript replayed, drawn as text, colours, JSON or SVG. Reads only."""
