"""What is published, and how it gets to a hub: a server of ours that answers as the hub does."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from sae_sweep.cli import main
from sae_sweep.records.store import Reader, default_url

pytestmark = pytest.mark.figures

WORDS = [
    "+sweep=smoke",
    "executor=inline",
    "sae.k=4",
    "train.lr=[1e-3,1e30]",
    "sweep.seeds=2",
    "activations.train_tokens=1024",
    "activations.validation_tokens=256",
]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("publish") / "outputs"
    assert main([*WORDS, f"outputs={place}"]) == 0
    return place


@pytest.fixture(scope="module")
def done(outputs) -> Path:
    return min(path.parent for path in (outputs / "trials").glob("*/sae.safetensors"))


class Hub(BaseHTTPRequestHandler):
    """Creates repositories, takes files inside commits, and notes what it was sent."""

    said: list[tuple[str, str, str]]
    refuse = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.said.append((self.path, self.headers["Authorization"], body))
        if self.refuse:
            return self.answer({"error": "no rights to this namespace"}, 403)
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for one in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        url = f"http://{self.headers['Host']}/lab/demo"
        return self.answer({"url": url, "commitUrl": f"{url}/commit/1", "commitOid": "1"})

    def do_GET(self) -> None:
        self.answer({"id": "lab/demo", "siblings": [], "tags": []})

    def answer(self, content, code: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hub(monkeypatch):
    class Fresh(Hub):
        said: ClassVar[list[tuple[str, str, str]]] = []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Fresh)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    where = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", where)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", where)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield Fresh
    server.shutdown()
    server.server_close()


def test_the_folder_holds_weights_card_and_metrics(outputs, done, capsys) -> None:
    words = ["publish", done.name, "--hub", "lab/demo", "--outputs", str(outputs), "--dry-run"]
    assert main([*words, "--licence", "mit"]) == 0
    place = done / "publish"
    names = {path.name for path in place.iterdir()}
    assert {"README.md", "cfg.json", "sae_weights.safetensors", "config.json", "figures"} <= names
    metrics = json.loads((place / "metrics.json").read_text())
    card = (place / "README.md").read_text()
    assert "license: mit" in card
    assert f"| fvu | {metrics['fvu']['value']:.4g} |" in card
    assert "over 2 seeds of this configuration fvu is" in card
    assert "| synthetic.n_features | 64 |" in card
    assert "| sae.k | 4 |" in card
    assert f"uid `{done.name.rsplit('-')[-1]}`" in card
    assert "python -m sae_sweep +sweep=smoke" in card
    table = [line for line in card.splitlines() if line.startswith("| fvu")]
    assert table[0].replace("\\|", "").count("|") == 4


def test_everything_is_uploaded_in_one_commit(outputs, done, hub, capsys) -> None:
    words = ["publish", done.name, "--hub", "lab/demo", "--outputs", str(outputs), "--private"]
    assert main(words) == 0
    assert "/lab/demo/commit/1" in capsys.readouterr().out
    created = next(json.loads(body) for path, _, body in hub.said if path == "/api/repos/create")
    assert (created["name"], created["organization"]) == ("demo", "lab")
    assert created.get("private") or created.get("visibility") == "private"
    [commit] = [body for path, _, body in hub.said if "/commit/main" in path]
    lines = [json.loads(line) for line in commit.splitlines()]
    sent = {one["value"]["path"]: one["value"] for one in lines if one["key"] == "file"}
    card = base64.b64decode(sent["README.md"]["content"]).decode()
    assert card == (done / "publish" / "README.md").read_text()
    assert {"cfg.json", "sae_weights.safetensors", "metrics.json"} <= set(sent)
    assert {token for _, token, _ in hub.said} == {"Bearer hf_secret"}


def test_a_refused_upload_keeps_the_folder_and_hides_the_token(outputs, done, hub, capsys) -> None:
    hub.refuse = True
    words = ["publish", done.name, "--hub", "lab/demo", "--outputs", str(outputs)]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "the upload to lab/demo failed (403 Forbidden" in said
    assert "is complete, and the same command tries again" in said
    assert "hf_secret" not in said


def test_without_a_token_nothing_is_uploaded(outputs, done, monkeypatch, capsys) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert main(["publish", done.name, "--hub", "lab/demo", "--outputs", str(outputs)]) == 2
    assert "run `hf auth login` or set HF_TOKEN, or use --dry-run" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["demo", "a/b/c", "/demo"])
def test_a_name_is_org_and_name(outputs, done, name, capsys) -> None:
    assert main(["publish", done.name, "--hub", name, "--outputs", str(outputs)]) == 2
    assert f"--hub={name}: write ORG/NAME" in capsys.readouterr().err


def test_a_trial_without_weights_is_refused(outputs, done, capsys) -> None:
    with Reader(default_url(outputs)) as reader:
        bad = next(one.folder for one in reader.sweep("smoke").trials if one.status == "diverged")
    words = ["publish", bad, "--hub", "lab/demo", "--outputs", str(outputs), "--dry-run"]
    assert main(words) == 2
    assert "has no weights in" in capsys.readouterr().err
