"""Settings of the `fetch` stage."""

from __future__ import annotations

from skdcgn_pipeline.parameters.base import Address, Settings


class Fetch(Settings):
    """Which assets the `fetch` pipeline brings into the asset folder (`assets`).

    Attributes:
        groups: Of the table of assets, `src/skdcgn_pipeline/images/assets.toml`.
        mirror: A folder or an http(s) address with the same names below it, such as the asset folder of
            another machine, looked into first; null takes `SKDCGN_MIRROR`. Credentials belong in ~/.netrc;
            those in an address are used and not told.
    """

    groups: tuple[str, ...] = ()
    mirror: Address | None = None
