"""One worker, which is the driver's own process."""

from dataclasses import dataclass
from typing import Any

from lightning_adls.engines.base import Call, Driver, Engine


@dataclass(frozen=True)
class _Direct:
    driver: Driver
    call: Call

    def tell(self, message: Any) -> None:
        self.driver.heard(self.call, message)

    def ask(self, message: Any) -> Any:
        return self.driver.heard(self.call, message)


class Serial(Engine):
    """Computes one call after another, here."""

    def __init__(self) -> None:
        super().__init__(1)

    def run(self, driver: Driver) -> None:
        """Compute what the driver gives, in its order."""
        while (call := driver.next()) is not None:
            driver.began(call, 1)
            shared = call.shared.value
            driver.ended(call, call.function(shared, call.argument, _Direct(driver, call)))

    def close(self) -> None:
        """Nothing is left."""
