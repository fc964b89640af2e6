"""An S3 server in this process, which tests can tell to hold up or refuse what is asked of it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from s3fs import S3FileSystem
from werkzeug.serving import make_server

BUCKET = "sweeps"
REFUSED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
BROKEN = b"<Error><Code>InvalidRequest</Code><Message>cut off</Message></Error>"


class S3:
    """What was asked, and what becomes of it."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.asked: list[tuple[str, str]] = []
        """Method and path of every request."""
        self.refuses: Callable[[str, str], bool] = lambda method, path: False
        """Which requests lack the rights."""
        self.before: Callable[[str, str], None] = lambda method, path: None
        """Called before a request is answered; may take its time."""
        self._held: str | None = None
        self._begun, self._over = threading.Event(), threading.Event()

    def __call__(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.asked.append((method, path))
        self.before(method, path)
        if self.refuses(method, path):
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [b"" if method == "HEAD" else REFUSED]
        if method == "PUT" and self._held is not None and path.endswith(self._held):
            self._begun.set()
            self._over.wait(60)
            start_response("400 Bad Request", [("Content-Type", "application/xml")])
            return [BROKEN]
        return self._moto(environ, start_response)

    @contextmanager
    def holding(self, name: str) -> Iterator[threading.Event]:
        """Let uploads of files of this name begin and never end; gives what says that one has."""
        self._held = name
        try:
            yield self._begun
        finally:
            self._held = None
            self._over.set()

    def objects(self) -> set[str]:
        """All objects."""
        found = self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return {one["Key"] for one in found}


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """Run a server with one bucket, and let what this process starts find it."""
    s3 = S3()
    server = make_server("127.0.0.1", 0, s3, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # of the server before
    s3.client = boto3.client("s3")
    s3.client.create_bucket(Bucket=BUCKET)
    try:
        yield s3
    finally:
        s3.refuses = lambda method, path: False
        for key in s3.objects():
            s3.client.delete_object(Bucket=BUCKET, Key=key)
        s3.client.close()
        server.shutdown()
        thread.join()
        server.server_close()
