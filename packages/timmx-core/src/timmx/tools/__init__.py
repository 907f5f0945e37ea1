"""The commands on exported files, one room per tool."""
