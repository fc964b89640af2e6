"""The manifest of a folder of shards."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from sae_sweep.activations.reader import Split
from sae_sweep.config.base import Strict
from sae_sweep.disk import replacing
from sae_sweep.errors import BadInput
from sae_sweep.inputs import edge
from sae_sweep.records.names import checked_component

SCHEMA = 1
"""Version of the shards' layout; part of the fingerprint."""

MANIFEST = "manifest.json"


class Shard(Strict):
    """One file of rows."""

    name: Annotated[str, AfterValidator(checked_component)]
    split: Split
    rows: PositiveInt
    size: NonNegativeInt | None
    """Bytes; None, as the checksum, of one that was computed later than the manifest."""
    sha256: str | None


class Manifest(Strict):
    """The manifest; written last, so a folder that has it is complete."""

    schema_number: int = Field(SCHEMA, alias="schema")
    fingerprint: str
    settings: dict[str, Any]
    d: PositiveInt
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    window_rows: PositiveInt | None = None
    """Training rows that are shuffled among each other; all where None."""
    mean: list[FiniteFloat]
    """Mean of the training rows, before scaling."""
    scale: FiniteFloat
    """Makes the mean norm of the centred training rows the square root of d."""
    target_mean: list[FiniteFloat] | None = None
    """Mean of a transcoder's targets, where rows have them."""
    target_scale: FiniteFloat | None = None
    group_names: list[str]
    notes: list[str] = Field(default_factory=list)
    """Notes on what was guessed, replaced or left out at extraction; the report repeats them."""
    shards: list[Shard]
    """In the order of their rows."""

    @model_validator(mode="after")
    def _of_one_width(self) -> "Manifest":
        for mean in (self.mean, self.target_mean):
            if mean is not None and len(mean) != self.d:
                raise ValueError(f"a mean of {len(mean)} values for rows of {self.d}")
        return self

    def rows(self, split: Split) -> int:
        """Rows of a split."""
        return sum(shard.rows for shard in self.shards if shard.split == split)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Declare a folder complete."""
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(manifest.model_dump_json(by_alias=True, indent=1))


def read_manifest(folder: Path) -> Manifest:
    """Read what a folder holds.

    Raises:
        BadInput: when it has no manifest, a damaged one, or one of another schema.
    """
    again = f"delete the folder {folder} and run again"
    if not (folder / MANIFEST).exists():
        raise BadInput(f"activations in {folder} are not complete: run the sweep again")
    with edge(str(folder / MANIFEST), again, "is damaged"):
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if found["schema"] != SCHEMA:
            raise BadInput(
                f"activations in {folder} have schema {found['schema']}, this version reads "
                f"schema {SCHEMA}: {again}"
            )
        try:
            return Manifest.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
