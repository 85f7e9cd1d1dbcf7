"""What runs inside the sandbox: standard library only, never imported by the rest of starkiln."""
