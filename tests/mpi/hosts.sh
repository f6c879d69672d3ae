#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Four hosts, which are network namespaces of this machine, joined by TCP alone: a run over them equals the serial one, its
# trace tells how messages and tasks overlap, and a link that is cut ends it. Everything lies in namespaces of its own, so that no network of the machine is touched.
# shellcheck disable=SC2034,SC2086,SC2154    # common.sh; lists of options
. "${srcdir:-.}/tests/mpi/common.sh"
cd "$work" || exit 99

net=10.77.0
switch=orrery$$         # the namespace of the bridge and of mpirun; host I is in $switch-I
hosts='1 2 3 4'

remove_hosts()
{
    for i in $hosts ''; do
        name=$switch${i:+-$i}
        [ -e "/run/netns/$name" ] || continue
        for process in $(ip netns pids "$name"); do kill -KILL "$process"; done
        ip netns delete "$name"
    done 2> /dev/null
}
trap 'remove_hosts; cd /; rm -rf "$work"' EXIT

add_host()
{
    ip netns add "$switch-$1" &&
        ip -n "$switch" link add "port$1" type veth peer name eth0 netns "$switch-$1" &&
        ip -n "$switch" link set "port$1" master bridge up &&
        ip -n "$switch-$1" addr add "$net.$1/24" dev eth0 &&
        ip -n "$switch-$1" link set lo up &&
        ip -n "$switch-$1" link set eth0 up &&
        echo "$net.$1 slots=1" >> hosts
}

add_hosts()
{
    ip netns add "$switch" &&
        ip -n "$switch" link set lo up &&
        ip -n "$switch" link add bridge type bridge &&
        ip -n "$switch" addr add "$net.254/24" dev bridge &&
        ip -n "$switch" link set bridge up || return
    for i in $hosts; do
        add_host "$i" || return
    done
    ip netns exec "$switch-1" unshare --uts true
}

for tool in ip unshare taskset; do
    command -v $tool > /dev/null || { echo "skipped: there is no $tool"; exit 77; }
done
add_hosts > setup 2>&1 || { echo "skipped: no network namespaces: $(tail -n 1 setup)"; exit 77; }

# What mpirun has for ssh. Open MPI keeps files under the host's name, so each has its own; a core for each lets idle
# threads sleep.
cat > agent << EOF
#!/bin/sh
i=\${1##*.}
shift
exec ip netns exec "$switch-\$i" unshare --uts taskset -c \$((i % $(nproc))) sh -c "hostname host\$i; \$*"
EOF
chmod +x agent
mca="--mca plm_rsh_agent $work/agent --hostfile hosts --mca btl tcp,self --mca btl_tcp_if_include $net.0/24 \
--mca oob_tcp_if_include $net.0/24 --bind-to none"

# The daemons of mpirun notice a host that does not answer.
mca="$mca --mca oob_tcp_keepalive_time 1 --mca oob_tcp_keepalive_intvl 1 --mca oob_tcp_keepalive_probes 7"

# on_hosts ARGUMENT...: the command with a rank on each host.
on_hosts()
{
    ran="mpirun on four hosts, orrery $*"
    ip netns exec "$switch" timeout 150 mpirun $mca -n 4 "$orrery" "$@" > out 2> all < /dev/null
    status=$?
    grep '^orrery' all > err
}

train="train --model tiny-gpt2 --set n_layer=4 --set n_embd=40 --set n_head=5 --set n_positions=32 --seq 32 --batch 4 \
--micro-batch 1 --data text --warmup 2 --dropout 0.1 --quiet"

# --- the same numbers ------------------------------------------------------------------------------------------
works $train --steps 4 --metrics serial.metrics
losses serial.metrics > serial
same 'lines of losses' "$(wc -l < serial)" 5

# Each loss and norm within this of the serial one, relative.
within()
{
    awk -v limit="$1" '
        NR == FNR { for (f = 1; f <= NF; f++) serial[FNR, f] = $f; rows++; next }
        { for (f = 2; f <= NF; f++) { d = $f - serial[FNR, f]; if (d < 0) d = -d; if ($f != serial[FNR, f] &&
                                      !(d <= limit * serial[FNR, f])) bad = 1 } found++ }
        END { exit bad || rows != found }' serial "$2"
}

while read -r layout; do
    name=$(echo $layout | tr -d ' -')
    on_hosts $train $layout --steps 4 --metrics $name.metrics
    same "exit status of $layout" "$status" 0
    same "what $layout says" "$(cat err)" ''
    losses $name.metrics > $name
    case $layout in
    '--pp 4') check "$layout: $(diff serial $name)" cmp -s serial $name ;;
    *) check "$layout: $(diff serial $name)" within 1e-5 $name ;;
    esac
done << 'EOF'
--pp 4
--dp 2 --pp 2
--tp 2 --pp 2 --sequence-parallel
EOF

# --- overlap ---------------------------------------------------------------------------------------------------
on_hosts $train --pp 4 --steps 3 --val-fraction 0 --trace traced
if grep -q 'has no FxT' err; then
    skip 'the overlap: the StarPU of this build has no FxT'
else
    same 'exit status of the traced run' "$status" 0
    works trace traced
    sed -n '/^overlap: /,/^$/p' out
    check 'the overlap of each host and of all' awk '
        /^overlap: / { inside = 1 }
        inside && NF == 3 && /%$/ { rows = rows $1 " "; if (!($2 > 0 && $3 + 0 >= 0 && $3 + 0 <= 100)) bad = 1 }
        END { exit bad || rows != "0 1 2 3 all " }' out
fi

# --- a cut link -------------------------------------------------------------------------------------------------
# The orrery processes on these hosts.
ranks_on()
{
    for i in $1; do
        for process in $(ip netns pids "$switch-$i"); do
            tr '\0' '\n' < "/proc/$process/cmdline" 2> /dev/null | head -n 1 | grep '/orrery$'
        done
    done
}

steps() { [ -e cut.metrics ] && [ "$(wc -l < cut.metrics)" -ge 3 ]; }
has_ended() { ! kill -0 "$job" 2> /dev/null; }
no_ranks() { [ -z "$(ranks_on "$hosts")" ]; }

# cut RANK NAMESPACE LINK: the link goes down in the midst of a run.
cut()
{
    rm -f cut.metrics
    ran="mpirun on four hosts, orrery $train --dp 2 --pp 2 --steps 1000000, link $3 cut"
    status=
    ip netns exec "$switch" timeout 150 mpirun $mca -n 4 "$orrery" $train --dp 2 --pp 2 --steps 1000000 \
        --metrics cut.metrics > out 2> all < /dev/null &
    job=$!
    check 'it trains' until_true 900 steps
    ip -n "$2" link set "$3" down
    begin=$(date +%s)
    check 'the end' until_true 400 has_ended
    end=$(date +%s)
    kill $job 2> /dev/null
    wait $job
    status=$?
    grep '^orrery' all > err
    check 'it fails' [ "$status" -ne 0 ]
    check 'no hang' [ "$status" -ne 124 ]
    same 'lost ranks' "$(sed 's/pid [0-9]*/pid/' err)" \
        "orrery: rank $1 (host host$(($1 + 1)), pid): lost: no sign of life for 6 s"
    check "ranks that are left: $(ranks_on "$hosts")" until_true 100 no_ranks
    echo "rank $1: the job ended $((end - begin)) s after its link was cut, with status $status"
}

cut 2 "$switch-3" eth0
for process in $(ip netns pids "$switch-3"); do kill -KILL "$process"; done
ip -n "$switch-3" link set eth0 up
cut 0 "$switch" port1

finish
