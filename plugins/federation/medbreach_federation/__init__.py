"""Whole federations on Flower."""

from medbreach_federation.learner import Instruction as Instruction
from medbreach_federation.learner import Learner as Learner
from medbreach_federation.learner import Result as Result
from medbreach_federation.learner import Weights as Weights
from medbreach_federation.rule import Aggregate as Aggregate
from medbreach_federation.rule import Rule as Rule
