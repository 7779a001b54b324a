"""Whole federations on Flower."""

from medbreach_federation.average import Mean as Mean
from medbreach_federation.average import weighted_mean as weighted_mean
from medbreach_federation.learner import Instruction as Instruction
from medbreach_federation.learner import Learner as Learner
from medbreach_federation.learner import Result as Result
from medbreach_federation.learner import Weights as Weights
from medbreach_federation.rule import Aggregate as Aggregate
from medbreach_federation.rule import Rule as Rule
from medbreach_federation.runner import Cluster as Cluster
from medbreach_federation.runner import RoundLine as RoundLine
from medbreach_federation.runner import run_federation as run_federation
from medbreach_federation.strategy import Played as Played
