"""Settings of the completion server."""

from starkiln.core.settings import Settings, key


class ServeSettings(Settings):
    """Where the server listens and how much one request may ask for."""

    host: str = key("127.0.0.1", "address to listen on; this machine only")
    port: int = key(8000, "TCP port", ge=0, le=65535)
    max_new_tokens: int = key(512, "most tokens one completion may have", gt=0)
    max_samples: int = key(64, "most completions one request may ask for", gt=0)
