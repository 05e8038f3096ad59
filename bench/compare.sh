#!/usr/bin/env bash
# Load against three `coracle serve` processes, and against one Redis that syncs every write if it is
# installed, with the same tool in the same run: the table of the README.
# Usage: bench/compare.sh [SECONDS per row]     needs: cargo build --release --workspace
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-4}
dir=$(mktemp -d "${TMPDIR:-/tmp}/coracle-compare-XXXXXX")
pids=()
stop() {
  [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
  wait
  rm -rf "$dir"
}
trap stop EXIT

port=27001 redis_port=27099
members=()
for i in 1 2 3; do
  p=$((port + 10 * (i - 1)))
  members+=(--member "$i=127.0.0.1:$p,127.0.0.1:$((p + 1000))")
done
for i in 1 2 3; do
  target/release/coracle serve --id "$i" --data-dir "$dir/node-$i" --cores 1 --shards 16 \
    "${members[@]}" >"$dir/node-$i.log" 2>&1 &
  pids+=($!)
done
redis=
if command -v redis-server >/dev/null; then
  mkdir "$dir/redis"
  redis-server --port "$redis_port" --dir "$dir/redis" --save '' --appendonly yes \
    --appendfsync always >"$dir/redis.log" 2>&1 &
  pids+=($!)
  redis=yes
fi

load() { # name, then arguments of the tool
  local name=$1
  shift
  target/release/coracle-bench load --seconds "$seconds" --warmup 1 --value-bytes 128 \
    --json "$dir/row.json" "$@" >"$dir/row.txt" 2>/dev/null
  awk -v name="$name" '/requests\/s/ { rate = $2 }
    $1 == "service" { p50 = $4 " " $5; p99 = $8 " " $9 }
    END { printf "%-28s %12s  p50 %-9s p99 %s\n", name, rate, p50, p99 }' "$dir/row.txt"
}

# Until the nodes listen and every shard has a leader.
for attempt in $(seq 100); do
  if target/release/coracle-bench load --addr "127.0.0.1:$port" --clients 8 --requests 1000 \
    >"$dir/first.txt" 2>&1; then break; fi
  [ "$attempt" -lt 100 ] || { cat "$dir/first.txt" "$dir"/node-*.log; exit 1; }
  sleep 0.1
done
target/release/coracle-bench embedded --in-flight 1 --seconds 1 2>/dev/null | grep '  raw' || true
for clients in 1 64 512; do
  for pipeline in 1 16; do
    what="$clients clients, pipeline $pipeline"
    load "coracle: $what" --addr "127.0.0.1:$port" --clients "$clients" --pipeline "$pipeline"
    [ -z "$redis" ] || load "redis:   $what" --single --addr "127.0.0.1:$redis_port" \
      --clients "$clients" --pipeline "$pipeline"
  done
done
