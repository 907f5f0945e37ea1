"""What a person types; everything here is presentation."""
