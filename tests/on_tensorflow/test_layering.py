"""Who may import whom: core knows no Keras classes, tf_lamb knows no scripts, nothing imports a script."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARY = sorted((ROOT / "tf_lamb").glob("*.py"))
SCRIPTS_FOLDER = sorted((ROOT / "tpu").glob("*.py"))
OWN_MODULES = {path.stem for path in SCRIPTS_FOLDER}

BASE_UPDATE = {"tf_lamb.core", "tf_lamb.options", "tf_lamb.layerwise.LayerwiseOptimizer"}
FACE = {"tf_lamb.state.compute_dtype", "tf_lamb.state.variable_path", "tf_lamb.update.LayerwiseUpdate"}
ALLOWED_IN_LIBRARY = {
    "__init__": {"keras"}
    | {f"tf_lamb.{m}" for m in ("dialects", "migrate", "rules", "schedules", "telemetry")}
    | {"tf_lamb.lamb.LAMB", "tf_lamb.lars.LARS", "tf_lamb.normalized_sgd.NormalizedSGD"},
    "core": {"keras.backend", "keras.ops", "math", "typing.NamedTuple"},
    "rounding": {"keras", "keras.ops"},
    "options": {"dataclasses", "math", "numbers", "warnings"},
    "rules": {"dataclasses", "math", "re", "warnings"},
    "gate": {"keras.ops"},
    "state": {"keras", "typing.NamedTuple", "tf_lamb.core"},
    "step": {"keras", "keras.ops", "tf_lamb.core", "tf_lamb.rounding", "tf_lamb.tpu_memory"},
    "tpu_memory": {"jax", "keras", "tensorflow", "tensorflow.compiler.tf2xla.ops.gen_xla_ops"},
    "replicas": {"keras", "sys", "tensorflow", "tensorflow.python.ops.control_flow_util"},
    "update": {"keras.ops", "warnings", "tf_lamb.step.Step"}
    | {f"tf_lamb.{m}" for m in ("core", "gate", "options", "rounding", "rules", "telemetry")}
    | {
        f"tf_lamb.state.{n}"
        for n in ("SharedState", "VariableState", "compute_dtype", "storage_dtype", "variable_path")
    },
    "in_place": {"functools", "numpy", "tensorflow", "tensorflow.python.eager.context", "tf_lamb.core"},
    "layerwise": {"contextlib", "keras", "keras.ops", "torch", "tf_lamb.in_place", "tf_lamb.replicas"} | FACE,
    "lamb": {"keras", "tf_lamb.schedules"} | BASE_UPDATE,
    "lars": {"keras"} | BASE_UPDATE,
    "normalized_sgd": {"keras", "tf_lamb.layerwise.LayerwiseOptimizer"},
    "tf_keras": {"keras", "tensorflow", "tf_keras", "tf_lamb.in_place", "tf_lamb.replicas"}
    | {"tf_lamb.state.storage_dtype"}
    | {"tf_lamb.lamb.LambUpdate", "tf_lamb.lars.LarsUpdate", "tf_lamb.normalized_sgd.NormalizedSgdUpdate"}
    | FACE,
    "model_garden": {"dataclasses", "tf_lamb.tf_keras.LAMB", "tf_lamb.tf_keras.LARS"}
    | {f"official.modeling.optimization.{name}" for name in ("optimizer_factory", "configs.optimization_config")}
    | {"official.modeling.optimization.configs.optimizer_config"},
    "schedules": {"keras", "keras.ops", "tf_lamb.options", "tf_lamb.schedule_plot.plot"}
    | {f"tf_lamb.scaling.{name}" for name in ("linear_epoch_warmup", "linear_scaling", "square_root_scaling")},
    "scaling": {"math", "tf_lamb.options"},
    "figure": {"matplotlib.figure.Figure"},
    "schedule_plot": {"tf_lamb.options", "tf_lamb.figure.figure_class"},
    "dialects": {"functools", "tf_lamb.lamb.LAMB", "tf_lamb.lars.LARS"},
    "migrate": {"collections", "os", "zipfile", "keras.ops", "tf_lamb.old_states", "tf_lamb.lamb.LambUpdate"}
    | {"tf_lamb.old_states.as_array", "tf_lamb.old_states.variables_of"}
    | {"tf_lamb.state.storage_dtype", "tf_lamb.state.variable_path"},
    "old_states": {"collections", "io", "json", "os", "zipfile", "typing.NamedTuple", "h5py", "keras", "keras.ops"}
    | {"tensorflow", "tensorflow.core.protobuf.trackable_object_graph_pb2", "tf_lamb.state.variable_path"},
    "telemetry": {"itertools", "keras", "keras.ops", "tf_lamb.core", "tf_lamb.telemetry_plot.plot"}
    | {f"tf_lamb.telemetry_history.{name}" for name in ("PER_LAYER", "History", "Recorder", "RecordingCallback")}
    | {"tf_lamb.telemetry_history.read_history"},
    "telemetry_history": {
        "csv",
        "io",
        "os",
        "typing.NamedTuple",
        "numpy",
        "keras.ops",
        "tensorflow",
        "tf_lamb.options",
    },
    "tf_keras_telemetry": {"tf_lamb.telemetry_history.RecordingCallback", "tf_lamb.tf_keras.tf_keras"},
    "telemetry_plot": {"os", "re", "numpy", "tf_lamb.telemetry_history.read_history", "tf_lamb.figure.figure_class"}
    | {f"matplotlib.{name}" for name in ("colormaps", "patheffects", "cm.ScalarMappable", "ticker.LogLocator")}
    | {f"matplotlib.{name}" for name in ("colors.ListedColormap", "colors.Normalize")},
}
# config -> data -> model -> step -> export: what a module of tpu/ may take from the others, besides `paths`.
ALLOWED_IN_TPU = {
    "paths": set(),
    "atomic_file": set(),
    "config": {"atomic_file"},
    "strategy": {"config"},
    "stages": {"config"},
    "run_config": {"adagrad", "config"},
    "bert_config": {"config", "run_config", "stages"},
    # text -> vocabulary -> tokens -> examples -> files
    "data_files": {"atomic_file", "config"},
    "worker_pool": set(),
    "text_files": {"config", "data_files"},
    "sentences": set(),
    "vocabulary": {"atomic_file", "config"},
    "wordpiece": {"config", "vocabulary"},
    "data_manifest": {"atomic_file", "config", "data_files"},
    "bert_manifest": {"bert_config", "config", "data_files", "data_manifest", "vocabulary"},
    "work_folder": {"atomic_file", "config", "data_files", "data_manifest"},
    "token_store": {"atomic_file"},
    "tokenize_text": {"atomic_file", "bert_manifest", "data_files", "sentences", "text_files", "token_store"}
    | {"vocabulary", "wordpiece", "worker_pool"},
    "bert_examples": {"token_store", "vocabulary"},
    "tfrecord": set(),
    "bert_records": {"bert_examples"},
    "bert_shards": {"atomic_file", "bert_config", "bert_examples", "bert_manifest", "bert_records", "config"}
    | {"data_files", "tfrecord", "token_store", "vocabulary", "work_folder"},
    "bert_words": {"bert_manifest", "tfrecord"},
    "dynamic_masking": {"bert_examples", "vocabulary"},
    "record_order": set(),
    "bert_input": {"dynamic_masking", "record_order", "stages"},
    "bert_task": {"weighted_means"},
    # model -> step -> loop -> checkpoint
    "keyed_dropout": set(),
    "train_step": set(),
    "workers": set(),
    "checkpoints": {"config"},
    "device_loop": set(),
    "training_history": {"atomic_file"},
    "staged_folder": set(),
    "weighted_means": set(),
    "train_state": {"keyed_dropout", "stages", "train_step"},
    "training_loop": {"checkpoints", "config", "device_loop", "train_state", "workers"}
    | {"atomic_file", "report", "run_config", "staged_folder", "training_history"},
    "smoke": {"config", "stages", "strategy", "training_loop"},
    "host_facts": set(),
    "report": {"atomic_file", "config", "host_facts", "training_history"},
    "run_folder": {"checkpoints", "config", "vocabulary"},
    "initial_weights": {"config", "run_folder"},
    "squad_config": {"bert_config", "config", "run_config", "stages"},
    "squad_data": {"config"},
    "squad_features": {"atomic_file", "data_files", "config", "squad_config", "squad_data", "wordpiece"},
    "squad_input": {"record_order", "stages"},
    "squad_task": {"bert_task", "weighted_means"},
    "squad_predict": {"atomic_file", "squad_input"},
    # images
    "image_manifest": {"config", "data_files", "data_manifest"},
    "image_sources": {"config"},
    "image_shards": {"atomic_file", "config", "data_files", "image_manifest", "image_sources", "work_folder"},
    "image_index": {"config", "data_files", "image_manifest", "worker_pool"},
    "image_config": {"config", "run_config", "stages"},
    "image_decoding": set(),
    "image_input": {"config", "image_decoding", "record_order", "stages"},
    "alexnet": set(),
    "image_task": {"alexnet", "weighted_means"},
    "serving_images": {"image_decoding"},
    "adagrad": set(),
    # config -> step -> compiler's input -> program -> costs
    "recipe": {"bert_config", "bert_task", "config", "image_config", "image_manifest", "image_task", "squad_config"}
    | {"squad_task", "stages"},
    "slice_strategy": set(),
    "traced_step": set(),
    "step_lowering": {
        "atomic_file",
        "config",
        "run_config",
        "slice_strategy",
        "strategy",
        "traced_step",
        "train_state",
    },
    "tpu_chips": {"config"},
    "slice_compiler": {"config", "host_facts", "tpu_chips"},
    "hlo_parser": set(),
    "loop_rounds": {"hlo_parser"},
    "hlo_text": {"hlo_parser", "loop_rounds"},
    "roofline": {"hlo_text", "tpu_chips"},
    "slice_plan": {"config", "hlo_text", "recipe", "roofline", "slice_compiler", "stages", "step_lowering"}
    | {"tpu_chips", "worker_pool"},
    "slice_report": {"roofline"},
    # facts -> findings; these import no package, and only the probe's questions import neighbours that do
    "doctor_facts": {"host_facts"},
    "doctor_findings": set(),
    "doctor_machine": {"doctor_findings"},
    "doctor_software": {"doctor_findings"},
    "command": {"config", "device_loop", "strategy"},
    "text_input": set(),
    "serving": {"text_input", "vocabulary"},
}


def imports(path):
    """The full names that a file imports, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            whole = node.module in ("tf_lamb.core", "tf_lamb.rules")
            names |= {node.module if whole else f"{node.module}.{alias.name}" for alias in node.names}
    return names


def is_script(path):
    return "__main__" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_the_library_imports_no_script(path):
    tops = {name.split(".")[0] for name in imports(path)}
    assert not tops & (OWN_MODULES | {"tpu", "tests", "benchmarks"})


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_a_module_of_the_library_imports_only(path):
    assert imports(path) <= ALLOWED_IN_LIBRARY[path.stem]


@pytest.mark.parametrize("path", SCRIPTS_FOLDER, ids=lambda path: path.stem)
def test_nothing_imports_a_script_and_data_flows_one_way(path):
    own = {name.split(".")[0] for name in imports(path)} & OWN_MODULES
    scripts = {other.stem for other in SCRIPTS_FOLDER if is_script(other)}
    assert not own & scripts
    if path.stem not in scripts:
        assert own <= ALLOWED_IN_TPU[path.stem] | {"paths"}


@pytest.mark.parametrize("path", [*LIBRARY, *SCRIPTS_FOLDER], ids=lambda path: path.stem)
def test_no_file_is_a_drawer(path):
    assert path.stem not in ("utils", "common", "helpers")
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
