#!/usr/bin/env bash
usage() {
  cat <<'HELP'
Installs what the scripts need on a Cloud TPU VM, and lets the doctor look at the result.

    tpu/setup_tpu_vm.sh [--python PYTHON] [--venv FOLDER] [--without_tpu]

  --python PYTHON  the Python to use, 3.10 to 3.12 (default: python3)
  --venv FOLDER    the virtual environment, made when missing (default: .venv of this checkout)
  --without_tpu    for a machine without a TPU, such as one that builds an image: the doctor does not ask for one
  --help           this text

It may be run again, and then brings the environment back to the pins of constraints/. It exits with the doctor's code:
0 when all is well, 1 when something is wrong; 2 when the arguments or the Python cannot be used.
HELP
}

set -euo pipefail

fail() {
  echo "setup_tpu_vm: $2" >&2
  exit "$1"
}

python=python3
venv=.venv
strategy=tpu
start_folder=$PWD
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv_folder=$root
while [ $# -gt 0 ]; do
  case $1 in
    --python | --venv)
      if [ "$1" = --python ]; then example=python3.10; else example=.venv; fi
      [ $# -ge 2 ] && [ -n "$2" ] || fail 2 "$1 needs a value. Received: none. Expected for example $1 $example."
      if [ "$1" = --python ]; then python=$2; else venv=$2 venv_folder=$start_folder; fi
      shift 2
      ;;
    --without_tpu) strategy=auto && shift ;;
    --help | -h) usage && exit 0 ;;
    *) fail 2 "an unknown argument. Received: $1. Expected --python, --venv, --without_tpu or --help." ;;
  esac
done
case $venv in /*) ;; *) venv=$venv_folder/$venv ;; esac
trap 'fail 130 "interrupted; the same command goes on."' INT
trap 'fail 143 "stopped; the same command goes on."' TERM

version_of() {
  "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo "nothing that runs"
}

version=$(version_of "$python")
case $version in
  3.10 | 3.11 | 3.12) ;;
  *)
    fail 2 "tensorflow-tpu 2.19.1 has releases for Python 3.10 to 3.12. Received: $python is $version. Expected for \
example --python python3.10."
    ;;
esac
if [ -x "$venv/bin/python" ]; then
  found=$(version_of "$venv/bin/python")
  [ "$found" = "$version" ] || fail 2 "the environment is of another Python. Received: $venv with $found, and $python \
with $version. Expected the same; remove the folder, or name another by --venv."
fi
# Over an environment that is there this changes nothing, and it mends one that was left half made.
"$python" -m venv "$venv" || fail 1 "no virtual environment could be made. Received: the error above from $python -m \
venv. Expected a Python with venv; on Ubuntu: sudo apt-get install python$version-venv."
# Only now: a relative --python begins where the command was given.
cd "$root"

# The first pin of a package counts: that of the TPU, of TensorFlow 2.19.1, of this version of Python.
pins=$venv/tpu_vm_constraints.txt
awk -F== '!seen[$1]++' constraints/tpu_vm.txt constraints/tensorflow2.19.1.txt "constraints/python$version.txt" > "$pins"

run_pip() {
  echo "setup_tpu_vm: $1"
  "$venv/bin/python" -m pip --disable-pip-version-check "${@:2}" || fail 1 "this step failed: $1. Received: pip's error \
above. Expected a network, some 5 GB of free disk and the pins of constraints/; the same command goes on."
}

# Python 3.10 brings a pip that is too old to build seqeval.
run_pip "a new pip" install --quiet 'pip>=23.1'
run_pip "tf-models-official and the rest of the scripts' packages" install --quiet --constraint "$pins" --editable '.[models]'
# tf-models-official brought tensorflow. tensorflow-tpu is the same folder, so it has to come when the other is gone.
run_pip "away with tensorflow" uninstall --quiet --yes tensorflow tensorflow-cpu tensorflow-tpu
run_pip "tensorflow-tpu" install --quiet --constraint "$pins" tensorflow-tpu

echo "setup_tpu_vm: the doctor looks at it"
"$venv/bin/python" tpu/doctor.py --strategy "$strategy" || exit $?
