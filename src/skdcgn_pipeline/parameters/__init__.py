"""Every setting of the pipeline: its name, type, default, range and meaning; one file per stage.

The values that deviate are in `conf/<env>/parameters*.yml`; unknown keys, wrong types and impossible values are
refused all at once and before any work (`check_parameters`).
"""

from skdcgn_pipeline.parameters.ablation import (
    Ablation,
    AlternativesGrid,
    CountsGrid,
    LossesGrid,
    MixingGrid,
    MonolithGrid,
    SizeGrid,
    StageGrid,
    StudyDistillation,
    StudyName,
    TransformationGrid,
    TransformationStrengths,
)
from skdcgn_pipeline.parameters.base import (
    Count,
    Fraction,
    Positive,
    Precision,
    Settings,
    Weight,
    flatten,
    without_anchors,
)
from skdcgn_pipeline.parameters.baseline import Baseline, BaselineWeights, LearningRates, MechanismName
from skdcgn_pipeline.parameters.benchmark import Benchmark, BenchmarkGroup
from skdcgn_pipeline.parameters.classes import Classes, ClassLists, choose_classes
from skdcgn_pipeline.parameters.classify import (
    DIGIT_NETWORK,
    SMALL_NETWORK,
    TIMM,
    ClassifierFit,
    ClassifierNetwork,
    Classify,
    CorruptionName,
    TrainingSetName,
)
from skdcgn_pipeline.parameters.compose import (
    Compose,
    Composition,
    Counterfactual,
    Interpolation,
    MechanismClasses,
    Transformation,
    Transformations,
)
from skdcgn_pipeline.parameters.compute import Compute, Device
from skdcgn_pipeline.parameters.distill import Distill, LossTerm, LossWeights, MechanismParameters, Student
from skdcgn_pipeline.parameters.engine import EngineSettings
from skdcgn_pipeline.parameters.evaluate import Evaluate
from skdcgn_pipeline.parameters.export import Export
from skdcgn_pipeline.parameters.fetch import Fetch
from skdcgn_pipeline.parameters.images import BIASED_SOURCES, NO_IMAGES, Images
from skdcgn_pipeline.parameters.prepare import GivenFeatures, Prepare
from skdcgn_pipeline.parameters.project import Parameters, check_parameters
from skdcgn_pipeline.parameters.prune import Prune
from skdcgn_pipeline.parameters.report import GenerationMetrics, Report
from skdcgn_pipeline.parameters.sample import ImageEncoding, Sample
from skdcgn_pipeline.parameters.teacher import MADE_BY_RUN, CutoutSettings, MaskedFit, Teacher, TeacherFit
