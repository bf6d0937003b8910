# Shared by setup-env.sh and deploy.sh: the checks before a run, `query` for reads and `change` for changes.
# shellcheck shell=bash disable=SC2034,SC2154

die() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# Prints a command that changes something, and runs it unless this is a dry run.
change() {
  changes=$((changes + 1))
  printf '  %s' "${dry_run:+would run: }"
  printf '%q ' "$@"
  printf '\n'
  if [[ -z $dry_run ]]; then
    "$@" >"$scratch/out" 2>"$scratch/err" || {
      cat "$scratch/out" "$scratch/err" >&2
      die "command failed: $*"
    }
  fi
}

# Runs a read; the output is in $found. Returns 1 if the resource does not exist, and ends the script on any other error.
query() {
  if found=$("$@" 2>"$scratch/err"); then
    return 0
  fi
  # Google's error for a project without read access contains "not found" too.
  if ! grep -qi 'not found or permission denied' "$scratch/err" &&
    grep -qiE 'NOT_FOUND|not found|does not exist|does not contain an App Engine|SERVICE_DISABLED|has not been used' "$scratch/err"; then
    found=
    return 1
  fi
  cat "$scratch/err" >&2
  die "command failed: $*"
}

prepare() {
  changes=0
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  command -v gcloud >/dev/null || die "gcloud is not installed; see https://cloud.google.com/sdk/docs/install"
  python=
  local candidate
  for candidate in "${PYTHON:-}" .venv/bin/python python3; do
    if [[ -n $candidate ]] && PYTHONPATH=src "$candidate" -c 'import pydantic, traced_relay, yaml' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
  [[ -n $python ]] || die "no Python has the relay's dependencies; run: make setup"
  [[ -n $project ]] || die "--project or GOOGLE_CLOUD_PROJECT is required"
  [[ $project =~ ^[a-z][a-z0-9.:-]{3,98}$ ]] || die "--project: not a project id: $project"
  export PYTHONPATH=src GOOGLE_CLOUD_PROJECT=$project CLOUDSDK_CORE_PROJECT=$project CLOUDSDK_CORE_DISABLE_PROMPTS=1
  if [[ ${CLOUDSDK_AUTH_DISABLE_CREDENTIALS:-} != true && -z ${CLOUDSDK_AUTH_ACCESS_TOKEN_FILE:-} ]]; then
    query gcloud auth list --filter status:ACTIVE --format='value(account)' || true
    [[ -n $found ]] || die "gcloud has no active account; run: gcloud auth login"
  fi
  "$python" -m traced_relay check || die "fix these problems first"
  "$python" -m traced_relay.deploy.plan "$project" >"$scratch/plan" || die "fix this problem first"
}

# The values of one kind in the plan, one a line.
planned() {
  sed -n "s/^$1 //p" "$scratch/plan"
}
