"""Every kind of task by the name that a configuration gives it."""

from tasks.kinds.choice import Choices, Idioms
from tasks.kinds.classification import Coreference, Pair, Sentence
from tasks.kinds.entities import Entities
from tasks.kinds.kind import TaskKind
from tasks.kinds.reading import Reading

# A new kind is a line here.
KINDS: dict[str, TaskKind] = {
    "sentence": Sentence(),
    "pair": Pair(),
    "coreference": Coreference(),
    "entities": Entities(),
    "reading": Reading(),
    "choice": Choices(),
    "idioms": Idioms(),
}
