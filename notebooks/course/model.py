"""The model that the notebooks look into: the preset `small`, trained on the bundled stories."""

import os
from contextlib import redirect_stderr

from course.build import FOLDER
from jaxgpt import LoadedModel, get_preset, load_model, pretrain

RUN = FOLDER.parent / "runs" / "small"
"""The folder that `make train` trains in too."""


def trained() -> LoadedModel:
    """The trained `small`, from `runs/small`; trained first where it is not there, in minutes."""
    if not (RUN / "loss.png").exists():  # which a run leaves at its end
        print("training the model of notebooks 06 to 10 and 12 in runs/small; this takes minutes")
    RUN.parent.mkdir(exist_ok=True)
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        pretrain(get_preset("small"), RUN)  # returns at once where the run is finished
    return load_model(RUN)
