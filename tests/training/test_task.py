"""Records of what fine-tuning made of a model: what is one, and that nothing else passes."""

import pytest

from jaxgpt.errors import CheckpointError
from jaxgpt.training.task import check_task

CLASSIFIER = {"kind": "classification", "classes": ["ham", "spam"], "pooling": "mean"}
ANSWERING = {"kind": "instructions", "template": "chat"}


@pytest.mark.parametrize(
    "task", [{}, CLASSIFIER, CLASSIFIER | {"seed": 3}, ANSWERING, ANSWERING | {"base": "00"}]
)
def test_what_is_a_task(task):
    assert check_task(task, "task.json") == task


@pytest.mark.parametrize(
    ("task", "complaint"),
    [
        ([], "holds no task"),
        (5, "holds no task"),
        ({"kind": "dance"}, "has the kind 'dance', which is not known here"),
        ({"template": "chat"}, "has the kind None"),
        ({"kind": ["instructions"]}, r"has the kind \['instructions'\]"),
        ({"kind": "instructions"}, "has the template None, where a name is due"),
        (ANSWERING | {"template": ["chat"]}, r"has the template \['chat'\]"),
        (ANSWERING | {"template": 5}, "has the template 5"),
        (ANSWERING | {"base": 5}, "has the base 5"),
        ({"kind": "classification", "pooling": "last"}, "names no two classes or more"),
        (CLASSIFIER | {"classes": 5}, "names no two classes"),
        (CLASSIFIER | {"classes": ["a"]}, "names no two classes"),
        (CLASSIFIER | {"classes": ["a", "a"]}, "names no two classes"),
        (CLASSIFIER | {"classes": ["a", 5]}, "names no two classes"),
        (CLASSIFIER | {"classes": [["a"], ["b"]]}, "names no two classes"),
        (CLASSIFIER | {"pooling": ["last"]}, "has the pooling"),
        (CLASSIFIER | {"pooling": None}, "has the pooling None, none of last, first, mean"),
        (CLASSIFIER | {"seed": -1}, "has the seed -1"),
        (CLASSIFIER | {"seed": True}, "has the seed True"),
    ],
)
def test_what_is_none(task, complaint):
    with pytest.raises(CheckpointError, match=f"task.json {complaint}"):
        check_task(task, "task.json")
