"""The base of every settings model: strict, frozen, unknown keys refused."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

FILE = "a file of the user's"  # marks settings that name one
# A path relative to the recipe's folder; what the file holds is part of the stage's identity.
File = Annotated[str, FILE]
PLACE = "a folder of the user's"
# A path relative to the recipe's folder; where it is, is no part of the stage's identity.
Place = Annotated[str, PLACE]


class Settings(BaseModel):
    """Settings that a part declares beside itself; recipes are checked against them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def key(default: Any, meaning: str, paper: str = "", **limits: Any) -> Any:
    """A recipe key: its default, its meaning in one line, and the paper's section or rule."""
    return Field(default, description=meaning, json_schema_extra={"paper": paper}, **limits)
