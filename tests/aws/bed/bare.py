"""python -m bed.bare --endpoint URL --blocks N: puts N blocks over 16 connections and does nothing else.

What the bed takes from a client that has no disk to read, no journal to write and nothing to decide: the rate that the
uploader is held against. GET URL/_rate tells it.
"""
import argparse, base64, hashlib, http.client, json, os, threading, urllib.parse

BLOCK, CONNECTIONS = 524288, 16
HEADERS = {"Authorization": "AWS4-HMAC-SHA256 Credential=example/20260101/us-east-1/ebs/aws4_request, "
                            "SignedHeaders=host, Signature=0"}


def ask(link, method, path, body, headers):
    link.request(method, path, body, HEADERS | headers)
    reply = link.getresponse()
    text = reply.read()
    if reply.status >= 300:
        raise OSError(f"{method} {path}: {reply.status} {text[:200]}")
    return text


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--endpoint", required=True)
    p.add_argument("--blocks", type=int, required=True)
    args = p.parse_args()
    host = urllib.parse.urlparse(args.endpoint).netloc
    blocks = [os.urandom(BLOCK) for _ in range(16)]
    sums = [base64.b64encode(hashlib.sha256(b).digest()).decode() for b in blocks]
    start = json.dumps({"VolumeSize": 1, "ClientToken": os.urandom(8).hex()})
    reply = ask(http.client.HTTPConnection(host), "POST", "/snapshots", start, {"Content-Type": "application/json"})
    snapshot, numbers, lock = json.loads(reply)["SnapshotId"], iter(range(args.blocks)), threading.Lock()

    def put():
        link = http.client.HTTPConnection(host)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            headers = {"x-amz-Data-Length": str(BLOCK), "x-amz-Checksum": sums[number % 16],
                       "x-amz-Checksum-Algorithm": "SHA256", "Content-Type": "application/octet-stream"}
            ask(link, "PUT", f"/snapshots/{snapshot}/blocks/{number}", blocks[number % 16], headers)

    threads = [threading.Thread(target=put) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
