"""Tables and plots as one self-contained HTML file: `content` says what is in it, `render` writes it."""
