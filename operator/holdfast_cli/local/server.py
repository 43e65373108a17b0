"""The one server that stands for every backend of local mode."""

from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlencode, urlsplit

from holdfast.connecting import connect
from holdfast.errors import ConfigurationError

_HIDDEN = "***"


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """Where the server listens, and how to identify; user and password are empty without."""

    host: str
    port: int
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def of_url(cls, url: str) -> "ServerAddress":
        """Read `redis://[user:password@]host[:port][/database]`.

        Raises:
            ConfigurationError: it has another form, or this version cannot use it.
        """
        connect(url)  # no I/O: it says in its own words what it cannot use
        parts = urlsplit(url)
        database = parts.path.strip("/") or "0"
        if parts.scheme != "redis" or not parts.hostname or not database.isdecimal():
            raise ConfigurationError(
                "--backend takes redis://[user:password@]host[:port][/database]"
            )
        if parts.query:
            raise ConfigurationError(
                "--backend takes no options: namespace and key prefix come from the manifests"
            )
        return cls(
            host=parts.hostname,
            port=parts.port or 6379,
            database=int(database),
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )

    @property
    def endpoint(self) -> str:
        """`host:port`, an IPv6 address in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def place(self) -> str:
        """What tells this server's data from another's."""
        return f"{self.endpoint}/{self.database}"

    def url(self, *, namespace: str, prefix: str = "mem", shown: bool = False) -> str:
        """Return what `holdfast.connect()` takes.

        Args:
            namespace: of the memories.
            prefix: `spec.keyPrefix` of their backend.
            shown: it is for people's eyes: without the password.
        """
        login = ""
        if self.password:
            password = _HIDDEN if shown else quote(self.password, safe="")
            login = f"{quote(self.username, safe='')}:{password}@"
        options = {"namespace": namespace} | ({} if prefix == "mem" else {"prefix": prefix})
        return f"redis://{login}{self.endpoint}/{self.database}?{urlencode(options)}"
