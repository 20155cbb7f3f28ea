"""What the real Helm and Kubernetes' own schemas say of the chart, and the golden renders."""

from __future__ import annotations

import base64
import json
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from fawa.config import load
from fawa.config.settings import TABLE
from fawa.net import tls
from tests.helm.charts import (
    CHART,
    GOLDEN,
    ROOT,
    SECRETS,
    VALUES,
    Object,
    config,
    container,
    helm,
    objects,
    of_kind,
    render,
    schema,
    secret_value,
    template,
    the,
)
from tests.helm.pod import environment

#: What Kubernetes itself does not have; tests/interop/node/crds.mjs knows it.
EXTENSIONS = ("cert-manager.io/", "gateway.networking.k8s.io/", "monitoring.coreos.com/")
#: The oldest and the newest Kubernetes that the objects are checked for.
VERSIONS = ("1.30", "1.37")


@pytest.mark.parametrize("name", VALUES)
def test_helm_finds_no_fault(name: str) -> None:
    helm("lint", "--strict", CHART, "--values", VALUES[name], "--values", SECRETS)


def test_helm_packs_it_with_its_dependencies(tmp_path: Path) -> None:
    helm("package", CHART, "--destination", tmp_path)
    (package,) = tmp_path.glob("fawa-*.tgz")
    with tarfile.open(package) as archive:
        names = set(archive.getnames())
    wanted = {"Chart.yaml", "values.schema.json", "README.md", "templates/NOTES.txt", "templates/_pod.tpl"}
    wanted |= {path.name for path in VALUES.values()}
    wanted |= {f"charts/{name}/templates/statefulset.yaml" for name in ("redis", "minio")}
    assert {f"fawa/{name}" for name in wanted} <= names
    # What was packed renders as the folder does.
    arguments = ("template", "fawa", package, "--namespace", "fawa", "--values", SECRETS)
    assert helm(*arguments, "--kube-version", "1.37.0") == template()


@pytest.mark.parametrize("name", VALUES)
def test_kubernetes_takes_every_object(name: str) -> None:
    rendered = objects(template(name))
    assert rendered
    for found in rendered:
        if not found["apiVersion"].startswith(EXTENSIONS):
            for version in VERSIONS:
                kubernetes_validate.validate(found, version, strict=True)


def test_a_wrong_object_would_be_seen() -> None:
    (deployment,) = of_kind("Deployment", render())
    deployment["spec"]["template"]["spec"]["terminationGrace"] = 5
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGrace"):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)


def extension_faults(found: list[Object]) -> list[str]:
    node = ROOT / "tests" / "interop" / "node"
    done = subprocess.run(
        ["node", "crds.mjs"],
        cwd=node,
        input=json.dumps(found),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.splitlines()


def test_extensions_take_every_object_of_theirs() -> None:
    found = [
        one for name in VALUES for one in objects(template(name)) if one["apiVersion"].startswith(EXTENSIONS)
    ]
    assert {one["kind"] for one in found} == {
        *("Certificate", "Issuer", "HTTPRoute", "GRPCRoute", "ServiceMonitor", "PrometheusRule")
    }
    assert extension_faults(found) == []
    route = of_kind("HTTPRoute", found)[0]
    route["spec"]["rules"][0]["matches"][0]["path"]["type"] = "Regex"
    assert extension_faults(found) == [
        "HTTPRoute fawa: data/spec/rules/0/matches/0/path/type must be equal to one of the allowed values"
    ]


def test_what_is_made_from_the_schema_and_the_golden_renders_are_fresh(tmp_path: Path) -> None:
    subprocess.run([ROOT / "scripts" / "chart", tmp_path], check=True, capture_output=True, timeout=300)
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.stem for path in made if path.parts[0] == "tests"} == {
        path.stem for path in GOLDEN.iterdir()
    }
    stale = [str(path) for path, text in made.items() if (ROOT / path).read_text() != text]
    assert stale == [], "run scripts/chart, and read the diff"


def leaves(given: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, entry in given["properties"].items():
        yield f"{prefix}{name}", entry
        if "default" not in entry:
            yield from leaves(entry, f"{prefix}{name}.")


@pytest.mark.parametrize("chart", [CHART, CHART / "charts" / "redis", CHART / "charts" / "minio"])
def test_every_value_is_described_bounded_and_has_a_default_that_fits(chart: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(chart))
    for name, entry in leaves(schema(chart)):
        assert entry["description"].endswith((".", "...`.")), name
        if "default" in entry:
            jsonschema.validate(entry["default"], entry)
        else:
            assert entry["additionalProperties"] is False, name
        if entry.get("type") == "integer":
            assert {"minimum", "maximum"} <= set(entry), name


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("replica=2", "additional properties 'replica' not allowed"),
        ("replicas=two", "at '/replicas': got string, want integer"),
        ("replicas=0", "at '/replicas': minimum: got 0, want 1"),
        (
            "services={greet,chat}",
            "at '/services/1': value must be one of 'greet', 'file', 'canva', 'canvax'",
        ),
        ("layout=split", "at '/layout': value must be one of 'together', 'apart'"),
        ("image.digest=latest", "at '/image/digest': 'latest' does not match pattern"),
        ("config.file\\.ttl=5", "at '/config/file.ttl': got number, want string"),
        ("drain.grace=-1", "at '/drain/grace': minimum: got -1, want 0"),
        ("quic.port=70000", "at '/quic/port': maximum"),
        ("publicUrl=fawa.example.com", "at '/publicUrl': 'fawa.example.com' does not match pattern"),
        ("secret.adminToken=short", "at '/secret/adminToken': 'short' does not match pattern"),
        ("persistence.size=lots", "at '/persistence/size': 'lots' does not match pattern"),
        ("apart.board.services={greet}", "at '/apart/board': additional properties 'services' not allowed"),
        ("extraEnv[0].name=FAWA_LISTEN", "at '/extraEnv/0/name'"),
        ("redis.enabled=true,redis.password=p@ss", "at '/password': 'p@ss' does not match pattern"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(setting: str, complaint: str) -> None:
    with pytest.raises(AssertionError) as refused:
        template("values", setting)
    assert complaint in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (
            "replicas=2",
            "2 replicas of greet, file, canva, canvax: a board lives in the memory of one process",
        ),
        ("services={canvax},replicas=2", "so what serves canva or canvax has one replica and no autoscaling"),
        ("services={canva},autoscaling.enabled=true", "Set replicas to 1; or layout to apart"),
        ("layout=apart,apart.board.replicas=2", "2 replicas of canva, canvax: a board lives in the memory"),
        ("services={file},replicas=2", "they share files only by Redis and S3. Set externalRedis.enabled"),
        ("services={file},replicas=2,redis.enabled=true", "they share files only by Redis and S3"),
        ("services={greet},autoscaling.enabled=true,autoscaling.min=9", "min (9) is above max (6)"),
        (
            "services={greet},autoscaling.enabled=true,autoscaling.cpu=0",
            "looks at nothing: set autoscaling.cpu",
        ),
        (
            "config.listen=:80",
            "config has listen, which the chart writes itself: set the value service.port.",
        ),
        ("config.drain_grace=5s", "set the value drain.grace."),
        ("redis.enabled=true,externalRedis.enabled=true", "are two Redis: keep one"),
        ("minio.enabled=true,s3.endpoint=http://s3", "are two S3 services: keep one"),
        ("externalRedis.enabled=true", "takes its URL: set secret.redisUrl"),
        ("s3.endpoint=http://s3", "s3.endpoint takes its keys: set secret.s3AccessKey"),
        ("tls.enabled=true", "tls.enabled takes a certificate: set tls.secret, or certManager.enabled."),
        ("quic.enabled=true", "quic.enabled takes fawad's own TLS"),
        (
            "layout=apart,quic.enabled=true,tls.enabled=true,tls.secret=x",
            "quic.enabled takes layout together",
        ),
        ("layout=apart,persistence.existingClaim=x", "persistence.existingClaim is one volume"),
        ("ingress.enabled=true", "ingress.enabled takes ingress.host"),
        ("ingress.host=a.b,ingress.grpcHost=a.b", "ingress.grpcHost must differ from ingress.host"),
        ("gateway.enabled=true,gateway.host=a.b", "gateway.enabled takes gateway.host and gateway.parents"),
        ("gateway.host=a.b,gateway.grpcHost=a.b", "gateway.grpcHost must differ from gateway.host"),
        ("certManager.enabled=true", "certManager.enabled takes a name"),
        (
            "networkPolicy.enabled=true,externalRedis.enabled=true,secret.redisUrl=redis://h",
            "networkPolicy.enabled shuts off the external Redis and S3: set networkPolicy.egress",
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused_with_what_to_do(settings: str, complaint: str) -> None:
    with pytest.raises(AssertionError) as refused:
        template("values", settings)
    assert complaint in str(refused.value)


def test_files_scale_with_redis_and_s3() -> None:
    (file,) = of_kind(
        "Deployment",
        render("values", "services={file},replicas=3,redis.enabled=true,minio.enabled=true"),
    )
    assert file["spec"]["replicas"] == 3
    # Nothing is kept in the pods, so they roll one by one.
    assert file["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
    }


def test_every_setting_of_fawad_is_the_charts_or_may_be_given() -> None:
    own = yaml.safe_load(
        (CHART / "templates" / "_checks.tpl")
        .read_text()
        .partition('define "fawa.ownSettings" -}}')[2]
        .partition("{{- end")[0]
    )
    assert set(own) <= set(TABLE)
    given = schema()["properties"]["config"]
    assert "redis.url" in own
    for key in TABLE:
        jsonschema.validate({key: "text"}, given)
    # A value that is to be set in place of one of fawad's is there.
    names = {name for name, _ in leaves(schema())}
    assert set(own.values()) <= names


@pytest.mark.parametrize("name", VALUES)
def test_what_fawad_is_told_it_knows(name: str) -> None:
    rendered = render(name)
    known = set(TABLE)
    variables = {"FAWA_" + key.replace(".", "_").upper() for key in known}
    for deployment in of_kind("Deployment", rendered):
        assert set(config(deployment, rendered)) <= known
        environment = {entry["name"] for entry in container(deployment)["env"]}
        assert {variable for variable in environment if variable.startswith("FAWA")} <= variables


@pytest.mark.parametrize("name", VALUES)
def test_fawad_takes_the_configuration(name: str, tmp_path: Path) -> None:
    rendered = render(name)
    keys = ("admin-token", "link-secret", "redis-url", "s3-access-key", "s3-secret-key")
    if not of_kind("Secret", rendered):  # an operator's own
        data = {key: base64.b64encode(b"redis://:x@redis:6379/0-and-long-enough").decode() for key in keys}
        data |= {"redis-url": base64.b64encode(b"rediss://:x@redis:6380/0").decode()}
        data |= {"s3-access-key": base64.b64encode(b"somebody").decode()}
        rendered.append({"kind": "Secret", "metadata": {"name": "fawa-secrets"}, "data": data})
    for deployment in of_kind("Deployment", rendered):
        settings = config(deployment, rendered)
        given = environment(container(deployment), rendered)
        if "tls.cert" in settings:
            settings |= certificate(tmp_path)
        file = tmp_path / "config.yaml"
        file.write_text(yaml.safe_dump(settings))
        loaded = load(["--config", str(file)], given, tmp_path)
        assert loaded.settings.services == tuple(settings["services"].split(","))
        assert loaded.settings.admin.token == given["FAWA_ADMIN_TOKEN"]
        assert loaded.origin["drain_grace"].startswith("file ")


def certificate(folder: Path) -> dict[str, str]:
    """Return settings of a certificate, as the Secret would bring one."""
    tls.development_certificate(folder / "tls", time.time(), "fawa.example.com")
    return {
        name: str(folder / "tls" / f"dev-{name.removeprefix('tls.')}.pem") for name in ("tls.cert", "tls.key")
    }


@pytest.mark.parametrize("name", VALUES)
def test_pods_may_do_nothing_that_they_need_not(name: str) -> None:
    rendered = render(name)
    pods = [
        one["spec"]["template"]["spec"] for one in rendered if one["kind"] in ("Deployment", "StatefulSet")
    ]
    pods += [one["spec"] for one in of_kind("Pod", rendered)]
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for one in pod["containers"]:
            assert one["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= set(one["resources"])
    for account in of_kind("ServiceAccount", rendered):
        assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", VALUES)
def test_references_lead_somewhere(name: str) -> None:
    rendered = render(name)
    deployments = of_kind("Deployment", rendered)
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in deployments]
    for deployment in deployments:
        pod = deployment["spec"]["template"]["spec"]
        mounted = {mount["name"] for mount in container(deployment)["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        for volume in pod["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                the("PersistentVolumeClaim", claim["claimName"], rendered)
    ports = {port["name"]: port["containerPort"] for port in container(deployments[0])["ports"]}
    for service in of_kind("Service", rendered):
        selector = service["spec"]["selector"]
        if selector["app.kubernetes.io/name"] == "fawa":
            assert any(selector.items() <= one.items() for one in labels), service["metadata"]["name"]
            assert all(port["targetPort"] in ports for port in service["spec"]["ports"])
    for ingress in of_kind("Ingress", rendered):
        for path in ingress["spec"]["rules"][0]["http"]["paths"]:
            backend = path["backend"]["service"]
            service = the("Service", backend["name"], rendered)
            assert backend["port"]["name"] in [port["name"] for port in service["spec"]["ports"]]
    for route in (*of_kind("HTTPRoute", rendered), *of_kind("GRPCRoute", rendered)):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                service = the("Service", backend["name"], rendered)
                assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]
    for scaler in of_kind("HorizontalPodAutoscaler", rendered):
        target = the("Deployment", scaler["spec"]["scaleTargetRef"]["name"], rendered)
        assert "replicas" not in target["spec"]
    for budget in of_kind("PodDisruptionBudget", rendered):
        assert any(budget["spec"]["selector"]["matchLabels"].items() <= one.items() for one in labels)


@pytest.mark.parametrize("name", VALUES)
def test_the_grace_is_that_of_the_drain_and_more(name: str) -> None:
    rendered = render(name)
    for deployment in of_kind("Deployment", rendered):
        drain = TABLE["drain_grace"].kind.parse(config(deployment, rendered)["drain_grace"])
        hook = container(deployment).get("lifecycle", {}).get("preStop", {"sleep": {"seconds": 0}})
        grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert grace == hook["sleep"]["seconds"] + drain + 10


def test_another_configuration_rolls_the_pods_and_the_same_does_not() -> None:
    def checksum(*settings: str) -> str:
        (deployment,) = of_kind("Deployment", render("values", *settings))
        return str(deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"])

    assert checksum() == checksum("service.port=81")
    assert checksum() != checksum("config.file\\.ttl=1h")


def test_secrets_are_made_by_chance_unless_given() -> None:
    def made() -> list[Object]:
        settings = "redis.enabled=true,minio.enabled=true"
        return objects(helm("template", "fawa", CHART, "--set", settings))

    one, other = made(), made()
    for name, key in [
        ("fawa", "admin-token"),
        ("fawa", "link-secret"),
        ("fawa-redis", "password"),
        ("fawa-minio", "password"),
    ]:
        assert secret_value(name, key, one) != secret_value(name, key, other)
        assert len(secret_value(name, key, one)) >= 32


def notes(name: str) -> str:
    arguments = ("install", "fawa", CHART, "--namespace", "fawa", "--dry-run=client")
    return helm(*arguments, "--values", VALUES[name], "--values", SECRETS).partition("NOTES:\n")[2]


def test_the_notes_say_where_the_page_is_and_what_is_kept() -> None:
    assert "port-forward service/fawa 8080:80\n" in notes("values")
    assert "serves greet, file, canva, canvax; what it keeps is on a volume\n" in notes("values")
    assert "WHAT IT KEEPS GOES WITH THE POD" in notes("development")
    production = notes("production")
    assert "The page: https://fawa.example.com/\n" in production
    assert "rollout status deployment/fawa-file\n" in production
    # The token is not in the chart's hands.
    assert "get secret" not in production


def test_plain_manifests_are_those_of_the_chart_without_a_word_of_helm() -> None:
    script = [
        str(ROOT / "scripts" / "manifests"),
        "--values",
        str(VALUES["staging"]),
        "--values",
        str(SECRETS),
    ]
    done = subprocess.run(script, capture_output=True, text=True, check=True, timeout=300)
    plain = objects(done.stdout)
    assert "helm.sh" not in done.stdout
    names = {(one["kind"], one["metadata"]["name"]) for one in plain}
    assert names == {
        (one["kind"], one["metadata"]["name"])
        for one in render("staging")
        if "helm.sh/hook" not in one["metadata"].get("annotations", {})
    }
    for one in plain:
        if not one["apiVersion"].startswith(EXTENSIONS):
            kubernetes_validate.validate(one, VERSIONS[0], strict=True)
