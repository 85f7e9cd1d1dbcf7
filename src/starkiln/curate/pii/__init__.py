"""Personal information: detection and redaction."""
