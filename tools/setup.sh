#!/bin/bash
# Makes a checkout ready on Debian 12: the missing Debian packages, and .venv from the hashed lock files.
#
#     tools/setup.sh run    what `bin/kata` needs (bin/kata calls it by itself)
#     tools/setup.sh dev    that, and what tests, linters and generators need (the Makefile calls it)
#     tools/setup.sh fuzz   that, and what `make fuzz` needs
#
# May be run at any time, by several at once, and again after it was interrupted at any point: a part counts as
# done only when its stamp, the hash of all that it was made from, has been written after it.
# Messages go to standard error; what the programs say goes to .kata/setup.log and is shown when one fails.
set -euo pipefail

mode=${1:-run}
root=$(cd -P "${BASH_SOURCE[0]%/*}/.." && pwd)
cd "$root"

packages=src/kata/ctl/check/packages.txt
venv=.venv
log=.kata/setup.log
system_python=/usr/bin/python3.11

main() {
    case $mode in
        run | dev | fuzz) ;;
        *) die "'$mode' is not a set-up" "tools/setup.sh run, dev or fuzz" ;;
    esac
    local packages_key run_key dev_key fuzz_key
    read_keys
    done_already && return
    mkdir -p .kata
    # The lock is on the checkout's folder itself, so there is no lock file to lose. Whoever waited finds it done.
    exec 9<.
    flock --nonblock 9 || { say "waiting for another set-up of this checkout"; flock 9; }
    read_keys
    done_already && return
    : >"$log"
    [[ $(stamp .kata/packages-"$mode") == "$packages_key" ]] || install_packages
    read_keys # the packages may have brought the interpreter
    install_environment
    say "ready"
}

say() { echo "set-up: $*" >&2; }

# die WHAT HINT
die() {
    echo "set-up: $1" >&2
    echo "  hint: $2" >&2
    exit 1
}

stamp() { [[ ! -e $1 ]] || cat "$1"; }

read_keys() {
    local interpreter
    interpreter=$(stat --dereference --format '%n %s %Y' "$system_python" 2>/dev/null) || interpreter=other
    packages_key=$(sha256sum <"$packages")
    run_key=$(cat requirements/run.txt requirements/build.txt <(echo "$interpreter $root") | sha256sum)
    dev_key=$(cat requirements/dev.txt <(echo "$run_key") | sha256sum)
    fuzz_key=
    [[ $mode != fuzz ]] || fuzz_key=$(cat requirements/fuzz.txt <(echo "$dev_key") | sha256sum)
}

# True when every stamp is right; they are made younger than their sources, which is all that bin/kata looks at.
done_already() {
    [[ -x $venv/bin/python && $(stamp .kata/packages-"$mode") == "$packages_key" ]] || return 1
    [[ $(stamp $venv/.kata-run) == "$run_key" ]] || return 1
    [[ $mode == run || $(stamp $venv/.kata-dev) == "$dev_key" ]] || return 1
    [[ $mode != fuzz || $(stamp $venv/.kata-fuzz) == "$fuzz_key" ]] || return 1
    touch $venv/.kata-run .kata/packages-run 2>/dev/null || true
}

# --- Debian packages ---------------------------------------------------------------------------------------

install_packages() {
    local missing=()
    check_system
    mapfile -t missing < <(missing_packages)
    if ((${#missing[@]})); then
        ((EUID == 0)) || die "these Debian packages are missing: ${missing[*]}" \
            "run this as root, or have them installed: apt-get install --no-install-recommends ${missing[*]}"
        say "installing Debian packages: ${missing[*]}"
        apt_install "${missing[@]}"
    fi
    [[ $mode == run ]] || echo "$packages_key" >.kata/packages-run
    echo "$packages_key" >.kata/packages-"$mode"
}

check_system() {
    local ID='' VERSION_ID='' PRETTY_NAME='this system'
    # shellcheck source=/dev/null
    [[ ! -r /etc/os-release ]] || . /etc/os-release
    [[ $ID == debian && ${VERSION_ID:-12} == 12 ]] && command -v apt-get dpkg-query >/dev/null && return
    die "$PRETTY_NAME is not Debian 12, for which this set-up is made" "use a Debian 12 machine, VM or container"
}

missing_packages() {
    local package need _rest wanted=() installed
    while read -r package need _rest; do
        [[ $package == '#'* || -z $package ]] && continue
        [[ $need == run || $mode != run ]] && wanted+=("$package")
    done <"$packages"
    # dpkg-query fails when it does not know one of the names; the others are listed all the same.
    installed=$(dpkg-query --show --showformat '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null || true)
    for package in "${wanted[@]}"; do
        [[ $'\n'$installed$'\n' == *$'\n'"installed $package"$'\n'* ]] || echo "$package"
    done
}

apt_install() {
    if [[ -n $(dpkg --audit 2>/dev/null) ]]; then
        say "finishing an installation of packages that was interrupted"
        logged dpkg --configure -a || show_failure "dpkg --configure -a failed"
    fi
    # Without lists nothing can be found; old lists may name files that are gone, and then they are renewed.
    if ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || ! logged apt_get install "$@"; then
        say "getting the package lists"
        twice logged apt_get update || show_failure "apt-get update failed"
        twice logged apt_get install "$@" || show_failure "apt-get install failed"
    fi
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get --quiet --yes --no-install-recommends \
        -o DPkg::Lock::Timeout=300 -o Acquire::Retries=2 "$@"
}

# --- the virtual environment -------------------------------------------------------------------------------

install_environment() {
    # One that was made for other locks or another Python, or was not finished, is made anew: nothing stale stays.
    if [[ $(stamp $venv/.kata-run) != "$run_key" ]] ||
        [[ $mode != run && -e $venv/.kata-dev && $(stamp $venv/.kata-dev) != "$dev_key" ]]; then
        make_environment
    fi
    if [[ $mode != run && ! -e $venv/.kata-dev ]]; then
        echo partial >$venv/.kata-dev
        say "installing $(count requirements/dev.txt) Python packages for development"
        pip_install requirements/dev.txt
        echo "$dev_key" >$venv/.kata-dev
    fi
    if [[ $mode == fuzz ]]; then
        say "installing $(count requirements/fuzz.txt) Python packages for fuzzing"
        pip_install requirements/fuzz.txt
        echo "$fuzz_key" >$venv/.kata-fuzz
    fi
}

make_environment() {
    local python
    python=$(find_python)
    say "making $venv with $python"
    rm -rf $venv
    logged "$python" -I -m venv $venv || show_failure "the virtual environment cannot be made"
    say "installing $(count requirements/run.txt) Python packages"
    pip_install requirements/run.txt requirements/build.txt
    logged pip install --no-deps --no-index --no-build-isolation --editable . ||
        show_failure "the project itself cannot be installed"
    echo "$run_key" >$venv/.kata-run
}

find_python() {
    local python=$system_python
    if [[ ! -x $python ]]; then
        # The real path, because what is on PATH may be a script that picks a version by folder.
        python=$(python3.11 -I -c 'import sys; print(sys.executable)' 2>/dev/null) ||
            die "there is no Python 3.11 here" "apt-get install python3.11"
    fi
    echo "$python"
}

count() { grep -c '^[a-z]' "$1"; }

# pip_install LOCK_FILE...
pip_install() {
    local file files=()
    for file in "$@"; do files+=(--requirement "$file"); done
    twice logged pip install --require-hashes --no-deps --only-binary :all: "${files[@]}" ||
        show_failure "Python packages cannot be installed"
}

# Where packages come from is the machine's own affair (pip.conf, PIP_INDEX_URL); what gets installed, and where
# to, is not: settings that could change that are taken away.
pip() {
    env -u PIP_TARGET -u PIP_PREFIX -u PIP_ROOT -u PIP_NO_BINARY -u PIP_PYTHON -u PIP_DRY_RUN \
        PIP_CONSTRAINT=/dev/null PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_REQUIRE_HASHES=0 PIP_NO_INPUT=1 \
        PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_PROGRESS_BAR=off \
        $venv/bin/python -I -m pip "$@"
}

# --- running programs --------------------------------------------------------------------------------------

logged() {
    echo "== $*" >>"$log"
    "$@" </dev/null >>"$log" 2>&1
}

twice() {
    "$@" && return
    say "that failed, trying once more"
    "$@"
}

show_failure() {
    tail -n 20 "$log" | sed 's/^/  | /' >&2
    die "$1" "see above; all of it is in $root/$log. Starting again goes on where this stopped"
}

main
