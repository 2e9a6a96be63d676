"""A server with the part of the hub's interface that uploads and downloads of models use, written from its documentation.

https://huggingface.co/docs/hub/api and https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md. Files of
``LARGE`` bytes and more go through the batch interface of Git LFS, others into the commit.
"""

import base64
import hashlib
import json
import math
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import huggingface_hub
import yaml

LARGE = 10_000
# Version 2 uploads large files by a protocol of its own, which is not here.
HAS_LFS = int(huggingface_hub.__version__.partition('.')[0]) < 2
TOKENS = {'hf_writer': 'write', 'hf_reader': 'read'}  # of the user "me"
LICENSES = ('apache-2.0', 'cc-by-4.0', 'cc-by-nc-4.0', 'mit', 'other')
COMMIT = 'c' * 40


class Hub:
    """Repositories: ``files`` by name and ``private``; ``objects`` of LFS by digest, ``requests`` as (method, path)."""

    def __init__(self):
        self.repositories, self.objects, self.requests, self.commits = {}, {}, [], []
        self.large = LARGE if HAS_LFS else math.inf
        self.server = ThreadingHTTPServer(('127.0.0.1', 0), handler(self))
        self.url = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def put(self, name, files, private=False):
        content = {'.gitattributes': b'*.safetensors filter=lfs\n', **files}
        self.repositories[name] = dict(files=content, private=private)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def handler(hub):  # noqa: C901 (one function for each address)
    class Handler(BaseHTTPRequestHandler):
        protocol_version = 'HTTP/1.1'

        def log_message(self, *_):
            pass

        @property
        def role(self):
            return TOKENS.get(self.headers.get('Authorization', '').removeprefix('Bearer '))

        def reply(self, status, content=b'', **headers):
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for key, value in {'Content-Length': len(body), **headers}.items():
                self.send_header(key.replace('_', '-'), str(value))
            self.end_headers()
            if self.command != 'HEAD':
                self.wfile.write(body)

        def refuse(self, status, text, code=None):
            codes = {'X_Error_Code': code} if code else {}
            self.reply(status, {'error': text}, X_Error_Message=text, **codes)

        def handle_request(self):
            length = int(self.headers.get('Content-Length') or 0)
            body = self.rfile.read(length)
            path = urlsplit(self.path).path
            hub.requests.append((self.command, path))
            if self.headers.get('Authorization') and self.role is None:
                return self.refuse(401, 'Invalid username or password.')
            for pattern, method in ROUTES:
                match = re.fullmatch(pattern, f'{self.command} {path}')
                if match:
                    return method(self, body, *match.groups())
            return self.refuse(404, 'not here', 'EntryNotFound')

        do_GET = do_POST = do_PUT = do_HEAD = handle_request

        def repository(self, name):
            found = hub.repositories.get(name)
            if found is None or (found['private'] and self.role is None):
                self.refuse(401 if self.role is None else 404, 'Repository not found', 'RepoNotFound')
                return None
            return found

        def may_write(self, owner):
            if self.role == 'write' and owner == 'me':
                return True
            self.refuse(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
            return False

        def whoami(self, _):
            if self.role is None:
                return self.refuse(401, 'Invalid username or password.')
            return self.reply(200, {'type': 'user', 'name': 'me', 'auth': {'accessToken': {'role': self.role}}})

        def create(self, body):
            asked = json.loads(body)
            owner, name = asked.get('organization') or 'me', asked['name']
            if f'{owner}/{name}' in hub.repositories:
                return self.reply(409, {'error': 'You already created it', 'url': f'{hub.url}/{owner}/{name}'})
            if not self.may_write(owner):
                return None
            private = asked.get('private') or asked.get('visibility') == 'private'  # of older and of newer clients
            hub.put(f'{owner}/{name}', {}, bool(private))
            return self.reply(200, {'url': f'{hub.url}/{owner}/{name}'})

        def validate(self, body):
            text = json.loads(body)['content']
            head = yaml.safe_load(text.split('---')[1])
            wrong = [] if head.get('license', 'other') in LICENSES else ['"license" must be one of the known identifiers']
            for model in head.get('model-index', []):
                for result in model['results']:
                    complete = {'task', 'dataset', 'metrics'} <= set(result) and {'type', 'name'} <= set(result['dataset'])
                    wrong += [] if complete and 'type' in result['task'] else ['"model-index" is not complete']
            self.reply(400 if wrong else 200, {'errors': [{'message': text} for text in wrong], 'warnings': []})

        def info(self, _, name):
            if found := self.repository(name):
                files = [{'rfilename': file} for file in found['files']]
                self.reply(200, {'id': name, 'sha': COMMIT, 'private': found['private'], 'siblings': files})

        def tree(self, _, name):
            if found := self.repository(name):
                files = {file: content for file, content in found['files'].items() if '/' not in file}
                entries = [dict(type='file', path=file, size=len(c), oid=COMMIT) for file, c in files.items()]
                self.reply(200, entries)

        def preupload(self, body, name):
            if self.repository(name) and self.may_write(name.partition('/')[0]):
                modes = [
                    (file['path'], 'lfs' if file['size'] >= hub.large else 'regular') for file in json.loads(body)['files']
                ]
                self.reply(200, {'files': [dict(path=path, uploadMode=mode, shouldIgnore=False) for path, mode in modes]})

        def batch(self, body, name):
            if self.repository(name) and self.may_write(name.partition('/')[0]):
                objects = [
                    dict(each, actions={'upload': {'href': f'{hub.url}/lfs/{each["oid"]}'}})
                    for each in json.loads(body)['objects']
                ]
                self.reply(200, {'transfer': 'basic', 'objects': objects})

        def store(self, body, oid):
            if hashlib.sha256(body).hexdigest() != oid:
                return self.refuse(400, 'wrong digest')
            hub.objects[oid] = body
            return self.reply(200)

        def commit(self, body, name):
            if not (self.repository(name) and self.may_write(name.partition('/')[0])):
                return
            files, done = hub.repositories[name]['files'], {}
            for line in map(json.loads, body.splitlines()):
                value = line['value']
                done.setdefault(line['key'], []).append(value.get('path') or value.get('summary'))
                if line['key'] == 'file':
                    files[value['path']] = base64.b64decode(value['content'])
                elif line['key'] == 'lfsFile':
                    files[value['path']] = hub.objects[value['oid']]
                elif line['key'] == 'deletedFile':
                    del files[value['path']]
            hub.commits.append(done)
            self.reply(200, {'commitUrl': f'{hub.url}/{name}/commit/{COMMIT}', 'commitOid': COMMIT})

        def resolve(self, _, name, file):
            found = self.repository(name)
            if found is None:
                return None
            content = found['files'].get(file)
            if content is None:
                return self.refuse(404, f'{file} does not exist', 'EntryNotFound')
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            return self.reply(200, content, ETag=etag, X_Repo_Commit=COMMIT)

    name = r'([\w.-]+/[\w.-]+)'
    ROUTES = [
        ('GET /api/whoami-v2', Handler.whoami),
        ('POST /api/repos/create', Handler.create),
        ('POST /api/validate-yaml', Handler.validate),
        (f'GET /api/models/{name}', Handler.info),
        (f'GET /api/models/{name}/tree/main', Handler.tree),
        (f'POST /api/models/{name}/preupload/main', Handler.preupload),
        (rf'POST /{name}\.git/info/lfs/objects/batch', Handler.batch),
        (r'PUT /lfs/(\w+)', Handler.store),
        (f'POST /api/models/{name}/commit/main', Handler.commit),
        (rf'(?:GET|HEAD) /{name}/resolve/\w+/(.+)', Handler.resolve),
    ]
    return Handler
