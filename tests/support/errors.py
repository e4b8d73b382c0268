"""What an error could tell whoever prints it."""


def everything_about(error: BaseException) -> str:
    """Every text that somebody could print of an error and of what led to it."""
    texts: list[str] = []
    pending: list[BaseException | None] = [error]
    while pending:
        one = pending.pop()
        if one is not None:
            texts += [str(one), repr(one), repr(vars(one))]
            pending += [one.__cause__, one.__context__]
    return "\n".join(texts)
