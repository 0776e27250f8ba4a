"""What this hub offers to optimize: the registry's catalog, the models people brought, and where each of them fits.

One object, so that forms, submissions, recommendations and the leaderboard's filter all see the same models. A name of
the registry wins over a brought one that is older than it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid_core.errors import InvalidInput
from workers.brought import BroughtKeeper
from workers.brought_request import check_request
from workers.catalog import CatalogKeeper
from workers.code_policy import CodePolicy
from workers.fitting import DeviceMemory, add_fits, refuse_what_does_not_fit
from workers.submission import Submission, check_submission, find_device, find_model


class Offer:
    """The catalog as everybody is told it; called from many threads at once."""

    def __init__(
        self, catalog: CatalogKeeper, brought: BroughtKeeper, policy: CodePolicy, memory: DeviceMemory
    ) -> None:
        self._catalog, self._brought, self._policy, self._memory = catalog, brought, policy, memory

    @property
    def state(self) -> str:
        """`ready`, `building`, or why there is no catalog."""
        return self._catalog.state

    def catalog(self) -> dict[str, Any]:
        """The whole catalog; waits while it is being built.

        Raises:
            HubUnavailable: it could not be built.
        """
        return self._merged(self._catalog.get())

    def catalog_if_ready(self) -> dict[str, Any] | None:
        """The same without waiting, None while there is none."""
        built = self._catalog.get_if_ready()
        return None if built is None else self._merged(built)

    def refuse_code(self, source: str) -> None:
        """Nothing, unless the registration of a brought model is of code that is not allowed now.

        Raises:
            InvalidInput: it is; the sentence says how to allow it.
        """
        if (reason := self._policy.refusal_of_source(source)) is not None:
            raise InvalidInput(reason)

    def check(self, config: Any) -> Submission:
        """What a submitted configuration means on this machine now.

        Raises:
            InvalidInput: it cannot be measured; the sentence says why.
        """
        catalog = self.catalog()
        checked = check_submission(config, catalog)
        self.refuse_code(checked.subject.source)
        model, device = find_model(catalog, checked.config.model), find_device(catalog, checked.config.device)
        refuse_what_does_not_fit(model, checked.subject.size, device, self._memory)
        return checked

    def bring(self, request: Mapping[str, Any]) -> str:
        """Have a model inspected and return its id.

        Raises:
            InvalidInput: something in the request is not allowed.
        """
        asked = check_request(request, [model["name"] for model in self._catalog.get()["models"]])
        if (reason := self._policy.refusal(asked.kind, asked.path)) is not None:
            raise InvalidInput(reason)
        return self._brought.bring(asked)

    def forget(self, name: str) -> str:
        """Take a brought model out of every form; a sentence for the person who asked."""
        if not self._brought.forget(name):
            raise InvalidInput(f"no model {name!r:.60} was brought in; `python -m workers models` lists them")
        return f"Model {name} was forgotten. Its files and the runs that measured it are untouched."

    def code(self) -> dict[str, Any]:
        """Whether Python code may be brought in, and of which packages."""
        return {"allow_code": self._policy.is_on, "allowed_packages": self._policy.packages()}

    def _merged(self, built: Mapping[str, Any]) -> dict[str, Any]:
        taken = {model["name"] for model in built["models"]}
        models = [*built["models"], *(model for model in self._brought.ready() if model["name"] not in taken)]
        devices = [{**device, "memory_bytes": self._memory.total(device)} for device in built["devices"]]
        return {**built, "models": [add_fits(m, devices, self._memory) for m in models], "devices": devices}
