"""Private names of Ray and DeepSpeed that this system touches: listed, and there.

An upgrade that renames one must fail here. At run time some of them degrade in silence: helper
processes come back, lost nodes cost more time, failures are counted by Ray's own rule.
"""

import ast
import functools
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PRODUCT = ("orchestrator", "serving")
RAY_POLICY = "ray/train/v2/_internal/execution"
ZERO_12 = "deepspeed/runtime/zero/stage_1_and_2.py"
ZERO_3 = "deepspeed/runtime/zero/stage3.py"
BF16 = "deepspeed/runtime/bf16_optimizer.py"
FRAGMENT = "deepspeed/utils/tensor_fragment.py"
LINKAGE = "deepspeed/utils/mixed_precision_linkage.py"

NAMES = {
    # Ray Train: cluster/trainer.py overrides or reads these.
    "_create_default_callbacks": ["ray/train/v2/api/data_parallel_trainer.py"],
    "_initialize_and_run_controller": ["ray/train/v2/api/data_parallel_trainer.py"],
    "_count_possible_workers": [f"{RAY_POLICY}/scaling_policy/elastic.py"],
    "_get_reserved_resources": [f"{RAY_POLICY}/scaling_policy/elastic.py"],
    "_autoscaling_coordinator": [f"{RAY_POLICY}/scaling_policy/scaling_policy.py"],
    "_requester_id": [f"{RAY_POLICY}/scaling_policy/scaling_policy.py"],
    "_worker_group_failures": [f"{RAY_POLICY}/failure_handling/default.py"],
    # Ray: cluster/room.py asks what is free on each node; the public call has the sum of all.
    "available_resources_per_node": ["ray/_private/state.py"],
    # Ray and Ray Train: cluster/drains.py; public calls meet all ranks, or do not say it at all.
    "state": ["ray/_private/state.py"],
    "get_draining_nodes": ["ray/_private/state.py"],
    "get_train_context": [f"{RAY_POLICY}/context.py"],
    "preemption_context": [f"{RAY_POLICY}/context.py"],
    "preemption_info": [f"{RAY_POLICY}/preemption.py"],
    # Ray: cluster/preload.py and cluster/spares.py; nothing public starts a process in advance.
    "WORKER_PROCESS_SETUP_HOOK_ENV_VAR": ["ray/_private/ray_constants.py"],
    "jobs": ["ray/_private/state.py"],
    "get_used_memory": ["ray/_private/utils.py"],
    "get_runtime_env_info": ["ray/_private/utils.py"],
    "init_grpc_channel": ["ray/_private/grpc_utils.py"],
    # Ray Tune: selection/trials/scheduler.py keeps actors for later trials; nothing public does.
    "_actor_cache": ["ray/tune/execution/tune_controller.py"],
    # Ray Serve: serving/local.py ends the controller itself.
    "SERVE_CONTROLLER_NAME": ["ray/serve/_private/constants.py"],
    "SERVE_NAMESPACE": ["ray/serve/_private/constants.py"],
    # DeepSpeed: cluster/engines/zero_layouts.py and deepspeed_zero.py.
    "_hp_mapping": ["deepspeed/runtime/base_optimizer.py", LINKAGE],
    "_index_in_param_group": [LINKAGE, BF16],
    "_wait_for_offload_copies": [ZERO_12],
    "_partition_all_parameters": [ZERO_3],
    "_reassign_or_swap_out_partitioned_parameters": [ZERO_3],
    "__compatible_ops__": ["deepspeed/ops/__init__.py"],
    "flatten_dense_tensors_aligned": [ZERO_12],
    # DeepSpeed: cluster/engines/building.py.
    "_convert_to_deepspeed_param": ["deepspeed/runtime/zero/partition_parameters.py"],
    "partition": ["deepspeed/runtime/zero/partition_parameters.py"],
}
"""Private name -> files of the installed package, one of which must define it."""

ZERO_NAMES = {
    "accumulated_grads_in_cpu": [ZERO_12],
    "all_grad_tensors": [ZERO_12],
    "averaged_gradients": [ZERO_12],
    "bit16_groups": [ZERO_12],
    "finalize_gradient_accumulation_boundary": [ZERO_12, ZERO_3],
    "fp16_groups": [ZERO_3],
    "fp32_groups_flat_partition": [BF16],
    "fp32_partitioned_groups_flat": [ZERO_3],
    "get_param_id": [ZERO_3],
    "grad_partitions_flat_buffer": [ZERO_3],
    "grad_position": [ZERO_3],
    "micro_step_id": [ZERO_12],
    "partition_gradients": [ZERO_12],
    "persistent_parameters": [ZERO_3],
    "single_partition_of_fp32_groups": [ZERO_12],
    "update_lp_params": [ZERO_12, BF16],
    "zero_grad": [ZERO_12, ZERO_3, BF16],
    "_wait_for_offload_copies": [ZERO_12],
    "_partition_all_parameters": [ZERO_3],
    "_reassign_or_swap_out_partitioned_parameters": [ZERO_3],
}
"""Undocumented attributes of DeepSpeed's ZeRO optimizers -> files that must all define them."""

CLASS_CHANGES = {("orchestrator/cluster/trainer.py", name) for name in ("policy", "failures")}
"""(file, variable) of objects of Ray whose ``__class__`` is replaced."""

STANDARD = frozenset({"_exit", "__name__", "__module__", "__class__", "__cause__"})
"""Names of Python's own that begin with an underscore."""


@functools.cache
def defined_in(file):
    """Return all names that a file of an installed package defines or assigns."""
    package, _, rest = file.partition("/")
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0]) / rest
    if not path.is_file():
        return frozenset()
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
        elif (
            # DeepSpeed fills one name on demand: globals()["name"] = ...
            isinstance(node, ast.Subscript)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.slice, ast.Constant)
        ):
            found.add(node.slice.value)
    return frozenset(found)


def product_files():
    """Return (relative path, tree) of product modules that use Ray or DeepSpeed."""
    for room in PRODUCT:
        for path in sorted((ROOT / room).rglob("*.py")):
            text = path.read_text("utf-8")
            if "ray" in text or "deepspeed" in text.lower():
                yield path.relative_to(ROOT).as_posix(), ast.parse(text)


def imports_of(tree):
    """Return all (module, name) that a tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def own_names():
    """Return every private name that product code itself defines."""
    found = set()
    for room in PRODUCT:
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    found.add(node.name)
                elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    found.add(node.id)
                elif (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.ctx, ast.Store)
                    and isinstance(node.value, ast.Name)
                    and node.value.id in ("self", "cls")
                ):
                    found.add(node.attr)
    return found


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_private_name_is_there(name):
    assert any(name in defined_in(file) for file in NAMES[name]), f"{name} is gone: {NAMES[name]}"


@pytest.mark.parametrize("name", sorted(ZERO_NAMES))
def test_every_attribute_of_the_zero_optimizers_is_there(name):
    missing = [file for file in ZERO_NAMES[name] if name not in defined_in(file)]
    assert not missing, f"{name} is gone from {missing}"


def test_a_name_that_is_gone_is_noticed():
    assert "_no_such_name" not in defined_in(ZERO_3)


def test_no_other_private_name_is_touched():
    """Private attributes that product code does not define itself are those listed here."""
    listed, own, touched = set(NAMES), own_names(), set()
    for file, tree in product_files():
        packages = {module.partition(".")[0] for module, _ in imports_of(tree)}
        if not packages & {"ray", "deepspeed"} and "cluster/engines" not in file:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Attribute) or not node.attr.startswith("_"):
                continue
            if node.attr not in own and node.attr not in STANDARD:
                touched.add((file, node.attr))
    unlisted = {(file, name) for file, name in touched if name not in listed}
    assert not unlisted


def test_private_modules_are_imported_only_where_listed():
    found = {
        (file, name)
        for file, tree in product_files()
        for module, name in imports_of(tree)
        if module.startswith(("ray.", "deepspeed."))
        and {"_private", "_internal"} & set(module.split("."))
    }
    assert found == {
        ("orchestrator/cluster/drains.py", "get_train_context"),
        ("orchestrator/cluster/drains.py", "state"),
        ("orchestrator/cluster/preload.py", "WORKER_PROCESS_SETUP_HOOK_ENV_VAR"),
        ("orchestrator/cluster/preload.py", "get_used_memory"),
        ("orchestrator/cluster/room.py", "available_resources_per_node"),
        ("orchestrator/cluster/spares.py", "WORKER_PROCESS_SETUP_HOOK_ENV_VAR"),
        ("orchestrator/cluster/spares.py", "get_runtime_env_info"),
        ("orchestrator/cluster/spares.py", "init_grpc_channel"),
        ("orchestrator/cluster/spares.py", "jobs"),
        ("serving/local.py", "SERVE_CONTROLLER_NAME"),
        ("serving/local.py", "SERVE_NAMESPACE"),
    }


def test_attributes_of_the_zero_optimizers_are_listed():
    tree = ast.parse((ROOT / "orchestrator/cluster/engines/zero_layouts.py").read_text("utf-8"))
    touched = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("self.zero", "zero")
    }
    assert touched == set(ZERO_NAMES)


def test_classes_of_foreign_objects_are_replaced_only_where_listed():
    found = {
        (file, ast.unparse(target.value))
        for file, tree in product_files()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute) and target.attr == "__class__"
    }
    assert found == CLASS_CHANGES


def test_product_code_uses_no_mock():
    users = [
        path.relative_to(ROOT).as_posix()
        for room in PRODUCT
        for path in (ROOT / room).rglob("*.py")
        if any(
            "mock" in (module, name) or module == "unittest.mock"
            for module, name in imports_of(ast.parse(path.read_text("utf-8")))
        )
    ]
    assert not users
