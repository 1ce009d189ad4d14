"""EBS direct APIs: blocks of 512 KiB, parents, client tokens, and the checks that AWS makes."""
import base64, hashlib, json, time

from moto.core.responses import ActionResult
from moto.ebs import models, responses
from moto.ec2.responses.elastic_block_store import ElasticBlockStore

BLOCK = 524288
TOKENS, WRITTEN, PARENT = {}, {}, {}
# AWS makes a completed snapshot readable a little later; the tool must wait for it.
PENDING_SECONDS = 0.3
READY_AT = {}


def error(kind, message, status=400, **fields):
    body = json.dumps({"Message": message, **fields})
    return status, {"status": status, "x-amzn-errortype": kind}, body


def close():
    original = models.EBSSnapshot.__init__

    def init(self, *args, **more):
        original(self, *args, **more)
        self.block_size = BLOCK

    models.EBSSnapshot.__init__ = init
    # AWS names its own key by an alias, until somebody sets another one.
    ElasticBlockStore.get_ebs_default_kms_key_id = lambda self: ActionResult(
        {"KmsKeyId": self.ec2_backend.default_kms_key_id or "alias/aws/ebs"})
    responses.EBSResponse.start_snapshot = start
    responses.EBSResponse.put_snapshot_block = put(responses.EBSResponse.put_snapshot_block)
    responses.EBSResponse.complete_snapshot = complete
    responses.EBSResponse.list_snapshot_blocks = list_blocks
    responses.EBSResponse.get_snapshot_block = get(responses.EBSResponse.get_snapshot_block)


def start(self):
    asked, backend = json.loads(self.body), self.ebs_backend
    parent, token = asked.get("ParentSnapshotId"), asked.get("ClientToken")
    same = {k: asked.get(k) for k in ("VolumeSize", "ParentSnapshotId", "Description", "Tags")}
    if token in TOKENS:
        known, before = TOKENS[token]
        if before != same:
            return error("ConflictException", "the client token was used with other parameters", 409)
        if known in backend.snapshots:
            return json.dumps(describe(backend.snapshots[known]))
    if parent and (parent not in backend.snapshots or backend.snapshots[parent].status != "completed"):
        return error("ResourceNotFoundException", f"no snapshot {parent}", 404, Reason="SNAPSHOT_NOT_FOUND")
    if parent and backend.snapshots[parent].volume_size > asked["VolumeSize"]:
        return error("ValidationException", "the volume is smaller than the parent's", Reason="INVALID_VOLUME_SIZE")
    encrypted = backend.ec2_backend.get_ebs_encryption_by_default()
    if parent and encrypted and not backend.ec2_backend.snapshots[parent].encrypted:
        return error("ValidationException", "the parent snapshot is not encrypted", Reason="INVALID_PARAMETER")
    snapshot = backend.start_snapshot(asked["VolumeSize"], asked.get("Tags"), asked.get("Description"))
    kept = backend.ec2_backend.snapshots[snapshot.snapshot_id]
    kept.status, kept.encrypted = "pending", encrypted
    kept.kms_key_id = backend.ec2_backend.default_kms_key_id if encrypted else None
    if parent:
        snapshot.blocks = dict(backend.snapshots[parent].blocks)
        PARENT[snapshot.snapshot_id] = parent
    if token:
        TOKENS[token] = (snapshot.snapshot_id, same)
    WRITTEN[snapshot.snapshot_id] = set()
    return json.dumps(describe(snapshot))


def describe(snapshot):
    parent = PARENT.get(snapshot.snapshot_id)
    return snapshot.to_json() | ({"ParentSnapshotId": parent} if parent else {})


def put(original):
    def put_snapshot_block(self):
        snapshot, _, index = self.parsed_url.path.split("/")[-3:]
        headers = {k.lower(): v for k, v in self.headers.items()}
        found = self.ebs_backend.snapshots.get(snapshot)
        if found is None:
            return error("ResourceNotFoundException", f"no snapshot {snapshot}", 404, Reason="SNAPSHOT_NOT_FOUND")
        if found.status != "pending":
            return error("ValidationException", "the snapshot is not pending", Reason="INVALID_SNAPSHOT_STATE")
        if len(self.body) != BLOCK or headers.get("x-amz-data-length") != str(BLOCK):
            return error("ValidationException", "a block has 524288 bytes", Reason="INVALID_BLOCK")
        checksum = base64.b64encode(hashlib.sha256(self.body).digest()).decode()
        if headers.get("x-amz-checksum") != checksum or headers.get("x-amz-checksum-algorithm") != "SHA256":
            return error("ValidationException", "the checksum is wrong", Reason="INVALID_CONTENT_CHECKSUM")
        if int(index) * BLOCK >= found.volume_size << 30:
            return error("ValidationException", "beyond the volume", Reason="INVALID_BLOCK_INDEX")
        WRITTEN[snapshot].add(int(index))
        return original(self)

    return put_snapshot_block


def complete(self):
    snapshot = self.parsed_url.path.split("/")[-1]
    headers = {k.lower(): v for k, v in self.headers.items()}
    found = self.ebs_backend.snapshots.get(snapshot)
    if found is None:
        return error("ResourceNotFoundException", f"no snapshot {snapshot}", 404, Reason="SNAPSHOT_NOT_FOUND")
    if int(headers.get("x-amz-changedblockscount", -1)) != len(WRITTEN[snapshot]):
        return error("ValidationException", f"{len(WRITTEN[snapshot])} blocks were written", Reason="INVALID_PARAMETER")
    if headers.get("x-amz-checksum"):
        # The digest of the digests of the blocks written, in the order of their indexes.
        sums = b"".join(base64.b64decode(found.blocks[str(i)].checksum) for i in sorted(WRITTEN[snapshot]))
        if base64.b64encode(hashlib.sha256(sums).digest()).decode() != headers["x-amz-checksum"]:
            return error("ValidationException", "the checksum is wrong", Reason="INVALID_CONTENT_CHECKSUM")
    found.status = "completed"
    READY_AT.setdefault(snapshot, time.time() + PENDING_SECONDS)
    return 202, {"status": 202}, json.dumps({"Status": "pending"})


def one_pass(ec2):
    """Completed snapshots become readable."""
    for snapshot, at in list(READY_AT.items()):
        if at <= time.time() and snapshot in ec2.snapshots:
            ec2.snapshots[snapshot].status = "completed"
            del READY_AT[snapshot]


def list_blocks(self):
    snapshot = self.ebs_backend.snapshots[self.path.split("?")[0].split("/")[-2]]
    asked = self._get_params()
    size = int(asked.get("maxResults") or 1000)
    first = int(asked.get("pageToken") or asked.get("startingBlockIndex") or 0)
    indexes = sorted(int(i) for i in snapshot.blocks if int(i) >= first)
    page, rest = indexes[:size], indexes[size:]
    blocks = [{"BlockIndex": i, "BlockToken": snapshot.blocks[str(i)].block_token} for i in page]
    reply = {"Blocks": blocks, "VolumeSize": snapshot.volume_size, "BlockSize": BLOCK}
    return json.dumps(reply | ({"NextToken": str(rest[0])} if rest else {}))


def get(original):
    def get_snapshot_block(self):
        self.path = self.path.split("?")[0]
        return original(self)

    return get_snapshot_block
