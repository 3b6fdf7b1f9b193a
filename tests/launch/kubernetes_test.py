"""examples/kubernetes/train.yaml: kubernetes_test.py CONVOY TRAIN_LLAMA MANIFEST

Method: the manifest is checked against Kubernetes' schemas (kubernetes-validate, strict), what is JobSet's own against a schema of the
fields used here. Then its containers' command, arguments, environment and probe run as they stand there, as two processes instead of two
pods, each the first process of its namespace where that is permitted, as in a container. Replaced are only the folders of volumes, the
first pod's name by 127.0.0.1, and what makes the job small (SMALLER). One pod is evicted (SIGTERM), then one is lost (SIGKILL): exit
codes must mean a restart by the manifest's own policy, and the next start must go on from the newest save. The program's own failure
must mean none. Exit code 77: no kubernetes-validate here. Not checked: everything that a cluster would do.
"""
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

try:
    import jsonschema
    import kubernetes_validate
    import yaml
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent.parent / folder) for folder in (".", "runtime")]
from certificate import make_certificate  # noqa: E402
from ports import free_port  # noqa: E402

CONVOY, TRAIN, MANIFEST = map(os.path.abspath, sys.argv[1:4])
PATIENCE_S = 90
VERSION = "1.37"  # of Kubernetes
STEPS, SAVE_EVERY = 60, 5
SMALLER = {"--device=cuda": "--device=cpu", "--checkpoint-every=50": f"--checkpoint-every={SAVE_EVERY}", "CONVOY_MESH": "tp=2,dp=2",
           "RANKS": "2"}
SMALL = ["--steps", str(STEPS), "--batch", "8", "--sequence", "24", "--json", "--no-baseline", "--sample", "0"]


def closed(required, **properties):
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


TEXT = {"type": "string"}
JOBSET = closed(  # of jobset.x-k8s.io/v1alpha2
    ["apiVersion", "kind", "metadata", "spec"], apiVersion={"const": "jobset.x-k8s.io/v1alpha2"}, kind={"const": "JobSet"},
    metadata=closed(["name"], name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}),
    spec=closed(["replicatedJobs"],
                network=closed([], enableDNSHostnames={"type": "boolean"}, publishNotReadyAddresses={"type": "boolean"}, subdomain=TEXT),
                failurePolicy=closed([], maxRestarts={"type": "integer", "minimum": 0}, rules={"type": "array", "items": closed(
                    ["name", "action"], name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
                    action={"enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]},
                    onJobFailureReasons={"type": "array", "items": {"enum": [
                        "BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"]}})}),
                replicatedJobs={"type": "array", "items": closed(["name", "template"], name=TEXT, replicas={"type": "integer"},
                                                                 template={"type": "object"})}))


def validate(documents):
    config, jobset = documents
    kubernetes_validate.validate(config, VERSION, strict=True)
    jsonschema.validate(jobset, JOBSET)
    for job in jobset["spec"]["replicatedJobs"]:
        kubernetes_validate.validate({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job["name"]}, **job["template"]}, VERSION,
                                     strict=True)


def finds_mistakes():
    """That the check can fail."""
    for right, wrong in (("mountPath: /shared", "mountpath: /shared"), ("maxRestarts:", "maxRestart:"), ("operator: NotIn", "op: NotIn"),
                         ("sizeLimit: 16Gi", "size: 16Gi"), ("completions: 2", "completions: two")):
        text = pathlib.Path(MANIFEST).read_text()
        assert right in text, right
        try:
            validate(list(yaml.safe_load_all(text.replace(right, wrong, 1))))
        except (jsonschema.ValidationError, kubernetes_validate.ValidationError):
            continue
        raise AssertionError(f"'{wrong}' was not found")


def can_make_namespaces():
    return subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False).returncode == 0


class Manifest:
    def __init__(self, folder):
        self.folder = folder
        self.config, self.jobset = yaml.safe_load_all(pathlib.Path(MANIFEST).read_text())
        validate([self.config, self.jobset])
        self.job = self.jobset["spec"]["replicatedJobs"][0]
        self.container = self.job["template"]["spec"]["template"]["spec"]["containers"][0]
        self.unused = set(SMALLER)

    def smaller(self, key, value):
        if key not in SMALLER:
            return value
        self.unused.discard(key)
        return SMALLER[key]

    def environment(self, index):
        """Of the pod with this completion index, as Kubernetes makes it."""
        name = self.jobset["metadata"]["name"]
        fields = {"metadata.annotations['jobset.sigs.k8s.io/jobset-name']": name, "status.podIP": "127.0.0.1"}
        assert [source["configMapRef"]["name"] for source in self.container["envFrom"]] == [self.config["metadata"]["name"]]
        values = {"JOB_COMPLETION_INDEX": str(index), **{key: self.smaller(key, value) for key, value in self.config["data"].items()}}
        for entry in self.container["env"]:
            value = entry["value"] if "value" in entry else fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
            values[entry["name"]] = self.smaller(entry["name"], expand(value, values))
        return values

    def here(self, text):
        """With the folders of volumes as they are on this machine."""
        for mount in self.container["volumeMounts"]:
            text = text.replace(mount["mountPath"] + "/", f"{self.folder / mount['name']}/")
        return text

    def words(self, index, rendezvous):
        name, values = self.jobset["metadata"]["name"], self.environment(index)
        first = f"{name}-{self.job['name']}-0-0.{name}:29500"  # as JobSet names it
        words = [expand(word, values) for word in self.container["command"] + self.container["args"]]
        assert f"--rdzv={first}" in words, words
        return [self.here(self.smaller(word, word)).replace(first, rendezvous) for word in words] + SMALL

    def probe(self, index):
        """Its exit code."""
        command = [self.here(word) for word in self.container["readinessProbe"]["exec"]["command"]]
        return subprocess.run(command, env=surroundings(self.folder) | self.environment(index), capture_output=True, timeout=30,
                              check=False).returncode

    def restarts(self, code):
        """What Job and JobSet do with a pod that has ended with it."""
        assert code != 0 and self.job["template"]["spec"]["backoffLimit"] == 0
        for rule in self.job["template"]["spec"]["podFailurePolicy"]["rules"]:
            wanted = rule.get("onExitCodes")
            if wanted and (code in wanted["values"]) == (wanted["operator"] == "In"):
                assert rule["action"] == "FailJob"
                failed = [r["action"] for r in self.jobset["spec"]["failurePolicy"]["rules"] if "PodFailurePolicy" in r["onJobFailureReasons"]]
                return failed != ["FailJobSet"]
        return True


def expand(text, values):
    """Kubernetes' own $(NAME); one that is unknown would stay as it is."""
    return re.sub(r"\$\((\w+)\)", lambda match: values[match.group(1)], text)


def surroundings(folder):
    """What the image has."""
    return {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "HOME": str(folder), "OMP_NUM_THREADS": "1"}


class Pod:
    """One container."""

    def __init__(self, manifest, index, rendezvous, alone):
        self.out = manifest.folder / f"pod-{index}-{time.monotonic_ns()}"
        words = (["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"] if alone else []) + manifest.words(index, rendezvous)
        environment = surroundings(manifest.folder) | manifest.environment(index) | {"CONVOY_HOST_ID": f"machine-{index}"}
        with self.out.open("w") as out:
            self.process = subprocess.Popen(words, env=environment, cwd=manifest.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        self.alone = alone

    def send(self, sent):
        """To the container's first process; SIGKILL of it kills all of its namespace."""
        pid = self.process.pid
        if self.alone:
            pid = int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        os.kill(pid, sent)

    def end(self):
        """Exit code as Kubernetes shows it."""
        code = self.process.wait(PATIENCE_S)
        return 128 - code if code < 0 else code

    def text(self):
        return self.out.read_text(errors="replace")


class Start:
    """Both pods."""

    def __init__(self, manifest, alone):
        self.manifest = manifest
        rendezvous = f"127.0.0.1:{free_port(neighbours=2)}"
        self.pods = [Pod(manifest, index, rendezvous, alone) for index in range(int(manifest.environment(0)["MACHINES"]))]

    def newest_step(self):
        path = self.manifest.folder / "shared/runs" / self.manifest.jobset["metadata"]["name"] / "node-0/metrics.jsonl"
        return max((int(s) for s in re.findall(r'"step":(\d+),"loss"', path.read_text() if path.exists() else "")), default=0)

    def await_step(self, step):
        self.wait_until(f"step {step}", lambda: self.newest_step() >= step)
        return self.newest_step()

    def wait_until(self, what, holds):
        end = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < end and all(pod.process.poll() is None for pod in self.pods), f"{what} did not come\n{self.text()}"
            time.sleep(0.05)

    def end(self):
        return [pod.end() for pod in self.pods]

    def await_ready(self):
        self.wait_until("readiness", lambda: [self.manifest.probe(index) for index in range(len(self.pods))] == [0] * len(self.pods))

    def resumed_from(self):
        found = re.search(r"resumed from step (\d+) ", self.text())
        return int(found.group(1)) if found else 0

    def text(self):
        return "\n".join(f"--- pod {index}\n{pod.text()}" for index, pod in enumerate(self.pods))


def evicted_and_lost(manifest, alone):
    first = Start(manifest, alone)
    newest = first.await_step(12)
    first.await_ready()
    first.pods[1].send(signal.SIGTERM)
    codes = first.end()
    assert codes == [143, 143] and all(manifest.restarts(code) for code in codes), f"{codes}\n{first.text()}"
    assert manifest.probe(0) != 0, "the probe says that an ended machine is ready"

    second = Start(manifest, alone)
    second.wait_until("another start", second.resumed_from)
    assert second.resumed_from() >= (newest - 1) // SAVE_EVERY * SAVE_EVERY, f"step {newest} was done\n{second.text()}"
    newest = second.await_step(newest + 12)
    second.await_ready()
    second.pods[1].send(signal.SIGKILL)
    codes = second.end()  # of the second one: unshare's, which makes an error of it
    assert codes[0] == 69 and manifest.restarts(69) and manifest.restarts(137), f"{codes}\n{second.text()}"

    third = Start(manifest, alone)
    assert third.end() == [0, 0], third.text()
    assert third.resumed_from() >= ((newest - 1) // SAVE_EVERY - 1) * SAVE_EVERY, f"step {newest} was done\n{third.text()}"
    result = json.loads([line for line in third.text().splitlines() if line.startswith("[0] {")][-1][4:])
    assert result["steps"] == STEPS and result["mesh"] == SMALLER["CONVOY_MESH"], result
    print(f"  a pod evicted: goes on from step {second.resumed_from()}; a pod lost: from step {third.resumed_from()}", flush=True)


def own_failure(manifest, alone):
    (manifest.folder / "shared/data/text.tokens").unlink()
    start = Start(manifest, alone)
    codes = start.end()
    assert 66 in codes and not manifest.restarts(66), f"{codes}\n{start.text()}"
    print("  the program's own failure is not restarted", flush=True)


def prepare(folder):
    for name in ("shared/data", "token", "tls", "bin"):
        (folder / name).mkdir(parents=True)
    for name, program in (("convoy", CONVOY), ("train_llama", TRAIN)):
        (folder / "bin" / name).symlink_to(program)
    (folder / "text.txt").write_text("".join(f"{i} times {i} is {i * i}. " for i in range(3000)))
    subprocess.run([CONVOY, "data", "prepare", str(folder / "text.txt"), "-o", str(folder / "shared/data/text.tokens")], check=True,
                   capture_output=True)
    (folder / "token/token").write_text("a-secret\n")
    certificate, key = map(pathlib.Path, make_certificate(folder))
    for name, source in (("tls.crt", certificate), ("tls.key", key), ("ca.crt", certificate)):
        (folder / "tls" / name).write_bytes(source.read_bytes())


def main():
    finds_mistakes()
    with tempfile.TemporaryDirectory(prefix="convoy-kubernetes-") as name:
        folder = pathlib.Path(name)
        prepare(folder)
        manifest, alone = Manifest(folder), can_make_namespaces()
        evicted_and_lost(manifest, alone)
        own_failure(manifest, alone)
        assert not manifest.unused, f"the manifest has no longer what this replaces: {manifest.unused}"


if __name__ == "__main__":
    main()
    print("ok")
