"""The one kind of error that is a user's to mend: one sentence, no traceback, exit code 2."""


class UserError(Exception):
    """A fault in a recipe, an input or an environment: ``where: what; mend``."""

    def __init__(self, where: object, what: str, mend: str) -> None:
        self.where, self.what, self.mend = str(where), what, mend
        super().__init__(f"{where}: {what}; {mend}")

    def __reduce__(self) -> tuple:
        return type(self), (self.where, self.what, self.mend)
