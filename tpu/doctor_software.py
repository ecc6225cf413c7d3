"""What doctor.py says of Python and its packages, in the order in which they have to be mended."""

from doctor_findings import (
    INSTALL,
    NOTE,
    OK,
    PROBLEM,
    SETUP,
    TENSORFLOWS,
    WARNING,
    Finding,
    answer_to,
    dotted,
    error_of,
    has_tpu_wheel,
    release,
    wants_tpu,
)

OLDEST_PYTHON, NEWEST_PYTHON, NEWEST_PYTHON_OF_TPU = (3, 10), (3, 13), (3, 12)
OLDEST_TENSORFLOW, NEWEST_TENSORFLOW = (2, 19), (2, 20)
OLDEST_KERAS = (3, 12)
# What tensorflow-tpu needs of libtpu. 2.20's own metadata admit releases that are too new for it.
LIBTPU = {(2, 19): ("0.0.10", "0.0.10"), (2, 20): ("0.0.14", "0.0.21")}
# What TensorFlow 2.19 cannot do with: the first release that is too new.
TOO_NEW = {(2, 19): {"numpy": "2.2", "protobuf": "6"}}


def findings(facts):
    """All that there is to say of the software, of the facts that doctor_facts.py gathers."""
    parts = (python, distributions, pins, libtpu, tensorflow, wheel, packages, model_garden, keras, compiler)
    return [finding for part in parts for finding in part(facts)]


def python(facts):
    """Whether everything has releases for this Python."""
    found = tuple(facts["python"])
    if found[:2] < OLDEST_PYTHON:
        yield Finding(
            PROBLEM,
            "Python",
            f"{dotted(found)}, which is too old",
            f"install Python {dotted(OLDEST_PYTHON)} to {dotted(NEWEST_PYTHON)} and make a new virtual environment",
        )
        return
    newest = NEWEST_PYTHON_OF_TPU if wants_tpu(facts) else NEWEST_PYTHON
    if found[:2] > newest:
        what = "tensorflow-tpu 2.19.1" if wants_tpu(facts) else "tf-lamb's stack"
        yield Finding(
            PROBLEM if wants_tpu(facts) else WARNING,
            "Python",
            f"{dotted(found)}, which is newer than {what} is made for",
            f"install Python {dotted(newest)} and make a new virtual environment",
        )
        return
    yield Finding(OK, "Python", dotted(found))


def distributions(facts):
    """Whether one package only owns the folder of TensorFlow."""
    there = [name for name in TENSORFLOWS if name in facts["packages"]]
    if len(there) > 1:
        yield Finding(
            PROBLEM if "tensorflow-tpu" in there else WARNING,
            "TensorFlow",
            "{} are installed into the same folder".format(" and ".join(there)),
            "`python -m pip uninstall {}`, then {}".format(" ".join(there), INSTALL),
        )


def _expected_release(facts):
    """The release of TensorFlow, even if it cannot be imported."""
    version = answer_to(facts, "tensorflow").get("version")
    there = [facts["packages"][name] for name in TENSORFLOWS if name in facts["packages"]]
    return release(version or there[0])[:2] if version or there else None


def pins(facts):
    """Whether a package is too new for TensorFlow, which then fails where it uses it, and may not import."""
    for name, first in TOO_NEW.get(_expected_release(facts), {}).items():
        version = facts["packages"].get(name)
        if version and release(version) >= release(first):
            yield Finding(
                PROBLEM,
                name,
                f"{version}, which is too new for TensorFlow {dotted(_expected_release(facts))}",
                f"`python -m pip install '{name}<{first}'`",
            )


def libtpu(facts):
    """Whether libtpu is there, of a version for which this TensorFlow was built."""
    if not has_tpu_wheel(facts):
        return
    version, tensorflow_release = facts["packages"].get("libtpu"), _expected_release(facts)
    bounds = LIBTPU.get(tensorflow_release)
    if bounds is None:
        found = f"{version or 'none'}; which one TensorFlow {dotted(tensorflow_release)} needs is not known here"
        yield Finding(WARNING, "libtpu", found, SETUP)
        return
    oldest, newest = bounds
    wanted = oldest if oldest == newest else f"{oldest} to {newest}"
    install = f"`python -m pip install libtpu=={newest}`"
    if version is None:
        found = f"not installed; TensorFlow {dotted(tensorflow_release)} needs {wanted}"
        yield Finding(PROBLEM, "libtpu", found, install)
    elif not release(oldest) <= release(version) <= release(newest):
        found = f"{version}; TensorFlow {dotted(tensorflow_release)} needs {wanted}"
        yield Finding(PROBLEM, "libtpu", found, install)
    elif error_of(facts, "libtpu") or not answer_to(facts, "libtpu").get("is_there", True):
        reason = error_of(facts, "libtpu") or "its library is not where it says"
        again = f"`python -m pip install --force-reinstall libtpu=={version}`"
        yield Finding(PROBLEM, "libtpu", f"{version} is broken: {reason}", again)
    else:
        yield Finding(OK, "libtpu", f"{version}, as TensorFlow {dotted(tensorflow_release)} needs")


def tensorflow(facts):
    """Whether TensorFlow imports, and is of a release that the scripts can use."""
    result = facts["answers"].get("tensorflow", {})
    if "error" in result:
        yield _broken_tensorflow(facts, result)
        return
    version = result["answer"]["version"]
    if release(version)[:2] < OLDEST_TENSORFLOW:
        yield Finding(PROBLEM, "TensorFlow", f"{version}; {dotted(OLDEST_TENSORFLOW)} is the oldest", INSTALL)
    elif release(version)[:2] > NEWEST_TENSORFLOW:
        found = f"{version}; there is no tf-models-official for it, so it can use the library and not the scripts"
        yield Finding(PROBLEM, "TensorFlow", found, INSTALL)
    elif has_tpu_wheel(facts) and release(version)[:2] == NEWEST_TENSORFLOW:
        yield Finding(WARNING, "TensorFlow", f"{version} for TPUs is experimental", SETUP + " for 2.19.1")
    else:
        yield Finding(OK, "TensorFlow", version)


def _broken_tensorflow(facts, result):
    if result.get("missing") == "tensorflow":
        return Finding(PROBLEM, "TensorFlow", "not installed", INSTALL)
    others = [finding.name for part in (pins, libtpu) for finding in part(facts) if finding.status == PROBLEM]
    if others:
        fix = "mend {} first".format(" and ".join(others))
    elif "SIGILL" in result["error"]:
        fix = "take a machine whose CPU has AVX, for which TensorFlow is built"
    elif result["how"] == "hung":
        fix = "try again with a larger --timeout_seconds; see that no folder in PYTHONPATH has a module tensorflow"
    elif "missing" in result:
        fix = "`python -m pip install {}`".format(result["missing"].split(".")[0])
    else:
        fix = "remove the virtual environment, then " + INSTALL
    return Finding(PROBLEM, "TensorFlow", "it cannot be imported: {}".format(result["error"]), fix)


def wheel(facts):
    """Whether TensorFlow was built for what it is to run on."""
    if "version" not in answer_to(facts, "tensorflow"):
        return
    if has_tpu_wheel(facts) and not wants_tpu(facts):
        found = "TensorFlow has the kernel TPUExecute, and this machine has no TPU"
        fix = "`export TPU_SKIP_MDS_QUERY=1`, or TensorFlow asks the network for a TPU for minutes"
        yield Finding(NOTE, "TPU support", found, fix)
    elif has_tpu_wheel(facts):
        yield Finding(OK, "TPU support", "TensorFlow has the kernel TPUExecute")
    elif wants_tpu(facts):
        found = "TensorFlow was built without the kernel TPUExecute: this is tensorflow and not tensorflow-tpu"
        yield Finding(PROBLEM, "TPU support", found, SETUP)
    else:
        yield Finding(OK, "TPU support", "none, and none is asked for: TensorFlow is built for CPUs and GPUs")


def packages(facts):
    """Whether the small packages of the scripts are there."""
    missing = facts["missing_modules"]
    if missing:
        fix = INSTALL
        if missing == ["pkg_resources"]:
            fix = "`python -m pip install 'setuptools<82'`"
        yield Finding(PROBLEM, "packages", "the scripts cannot import {}".format(", ".join(missing)), fix)
    else:
        yield Finding(OK, "packages", "all that the scripts import")


def model_garden(facts):
    """Whether tf-models-official imports, and belongs to this TensorFlow."""
    version, error = facts["packages"].get("tf-models-official"), error_of(facts, "model_garden")
    wanted = _expected_release(facts)
    if version is None:
        yield Finding(PROBLEM, "tf-models-official", "not installed", INSTALL)
    elif wanted and release(version)[:2] != wanted:
        fix = SETUP if has_tpu_wheel(facts) else f"`python -m pip install 'tf-models-official~={dotted(wanted)}.0'`"
        yield Finding(PROBLEM, "tf-models-official", f"{version} beside TensorFlow {dotted(wanted)}", fix)
    elif error and "pkg_resources" in facts["missing_modules"]:
        found = f"{version} cannot be imported: {error}"
        yield Finding(PROBLEM, "tf-models-official", found, "`python -m pip install 'setuptools<82'`")
    elif error:
        yield Finding(PROBLEM, "tf-models-official", f"{version} cannot be imported: {error}", INSTALL)
    elif answer_to(facts, "model_garden"):
        tf_keras = answer_to(facts, "model_garden")["tf_keras_version"]
        yield Finding(OK, "tf-models-official", f"{version}, with tf_keras {tf_keras}")
    else:
        yield Finding(NOTE, "tf-models-official", f"{version}, not tried without TensorFlow", "mend TensorFlow")


def keras(facts):
    """Whether Keras is new enough, and which backend it has."""
    error, answer = error_of(facts, "keras"), answer_to(facts, "keras")
    if error:
        fix = "`export KERAS_BACKEND=tensorflow`, or install the package of the backend"
        if facts["answers"]["keras"].get("missing") == "keras":
            fix = INSTALL
        elif facts["environment"].get("KERAS_BACKEND", "tensorflow") == "tensorflow":
            fix = f"`python -m pip install --force-reinstall --no-deps 'keras>={dotted(OLDEST_KERAS)}'`"
        yield Finding(PROBLEM, "Keras", f"it cannot be imported: {error}", fix)
    elif answer and release(answer["version"])[:2] < OLDEST_KERAS:
        yield Finding(
            PROBLEM,
            "Keras",
            "{}; {} is the oldest".format(answer["version"], dotted(OLDEST_KERAS)),
            f"`python -m pip install 'keras>={dotted(OLDEST_KERAS)}'`",
        )
    elif answer and answer["backend"] != "tensorflow":
        yield Finding(
            WARNING,
            "Keras",
            "{} on {}, which is not for tf.distribute".format(answer["version"], answer["backend"]),
            "`export KERAS_BACKEND=tensorflow`",
        )
    elif answer:
        yield Finding(OK, "Keras", "{} on tensorflow".format(answer["version"]))


def compiler(facts):
    """Whether aot.py can compile for a TPU without one. Training does not need it."""
    missing = [name for name in ("jax", "libtpu") if name not in facts["packages"]]
    if has_tpu_wheel(facts):
        return  # There libtpu is TensorFlow's own.
    if missing:
        fix = "`python -m pip install '.[aot]'`, with Python 3.11 or newer, to use tpu/aot.py; nothing else needs it"
        yield Finding(NOTE, "compiling for TPUs", "no {}".format(" and no ".join(missing)), fix)
    else:
        versions = "jax {} and libtpu {}, for tpu/aot.py".format(*(facts["packages"][n] for n in ("jax", "libtpu")))
        yield Finding(OK, "compiling for TPUs", versions)
