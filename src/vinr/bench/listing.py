"""What recipes there are, for lists."""

from __future__ import annotations

from dataclasses import dataclass

from vinr.bench.recipe import list_recipes, load_recipe


@dataclass(frozen=True)
class RecipeEntry:
    """A recipe in a line: its name, whose table or figure it is, and what that shows."""

    name: str
    paper: str
    table: str
    title: str


SPEED = RecipeEntry("speed", "vinr", "speed", "Seconds a step, time to quality and decoding, on this machine")
GALLERY = RecipeEntry(
    "gallery", "vinr", "gallery", "Frames decoded, interpolated and inpainted, beside the originals"
)


def list_recipe_entries() -> list[RecipeEntry]:
    """Return all recipes, sorted by name, the measurement of speed, and the gallery."""
    recipes = [load_recipe(name) for name in list_recipes()]
    return [*(RecipeEntry(one.name, one.paper, one.table, one.title) for one in recipes), SPEED, GALLERY]
