"""Builds what a guest boots from: the image with the agent, out of Debian's packages.

Doors: `build_image`, and `ensure_assets`, which builds or fetches only what is missing or stale. Called by
`kata osbuilder` and before a sandbox starts; the second must stay cheap, so building is loaded when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kata.osbuilder.assets import Assets, ensure_assets
from kata.osbuilder.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from kata.kernel.asset import Manifest
    from kata.kernel.packages import Progress

__all__ = ["Assets", "Recipe", "build_image", "ensure_assets"]


def build_image(recipe: Recipe, output: Path, progress: Progress) -> Manifest:
    """Build what `recipe` describes into `output`; see `kata.osbuilder.image.build_image`. Raises BuildError."""
    from kata.osbuilder import image

    return image.build_image(recipe, output, progress)
