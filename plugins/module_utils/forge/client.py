# SPDX-FileCopyrightText: AS215932
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forge (GitHub.com, GitHub Enterprise) over REST: only the calls that this collection needs."""

from __future__ import annotations

import base64
import random
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, urljoin, urlsplit

from ..base.clock import written
from ..base.errors import LoopError, MissingLibrary, certificate
from ..base.later import later
from ..base.untrusted import show
from ..git.command import LOOPBACK, origin_of
from .api_errors import advice_on, limited_for

if TYPE_CHECKING:
    import requests
else:
    requests = later("requests")  # None on a fresh host, before the role's packages are there

Json: TypeAlias = dict[str, Any]

TRIES = 5
GREEN = ("success", "neutral", "skipped")  # the results of a check that hold nothing up
MAX_PAGES = 200
REDIRECTS = 3


def load() -> None:
    """Load the library now: for who answers in children of its own, each of which would load it once more."""
    getattr(requests, "Session", None)


def redact(text: str, secrets: Iterable[str]) -> str:
    """``text`` without any of the ``secrets``."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text


class Refused(LoopError):
    """The forge answered, and not as hoped."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class Forge:
    """One forge seen with one token.

    ``patience`` bounds, in seconds, how long one call may wait for the forge to come back
    or for a rate limit to pass. A GET is sent again after any passing trouble, a write only
    where the forge said that it did not do it for want of quota: after a lost answer nobody
    knows whether a write was done. Proxies and CA bundles come from the environment.
    """

    def __init__(
        self, api_url: str, token: str, *, timeout: tuple[float, float] = (10.0, 30.0), patience: float = 90.0
    ) -> None:
        if requests is None:
            raise MissingLibrary("requests", "python3-requests")
        _check_address("engineering_loop_github_api_url", api_url, "https://api.github.com or https://HOST/api/v3")
        if not token or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise LoopError("the forge token is empty or has characters that no token has")
        self.api_url = api_url.rstrip("/")
        self._token = token
        self._timeout = timeout
        self._patience = patience
        # What was read, by URL: asked again with its ETag, an unchanged answer costs no quota.
        self._read: dict[str, Any] = {}
        self._session = requests.Session()
        # As an auth callable, not as a header: a .netrc entry would replace the header.
        self._session.auth = self._authorize
        self._session.headers.update(
            {
                "Accept": "application/vnd.github+json",
                "User-Agent": "as215932-engineering-loop",
                "X-GitHub-Api-Version": "2022-11-28",
            }
        )

    def _authorize(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    # --- reading

    def identity(self) -> str:
        """The login that this token acts as."""
        return str(self._get("/user")["login"])

    def token_ends(self) -> str:
        """When this token ends to be valid, as ``utc_now`` writes it; empty where it does not, or nobody says so."""
        answer = self._request("GET", "/rate_limit", absent=(404,))  # which costs no quota
        told = answer.headers.get("GitHub-Authentication-Token-Expiration", "") if answer is not None else ""
        try:  # not strptime, which would import more: a child that gave root up may not be able to read it
            ends = datetime.fromisoformat(told.replace(" UTC", "+00:00").replace(" +", "+").replace(" -", "-"))
        except ValueError:
            return ""
        return written(ends.astimezone(UTC)) if ends.tzinfo else ""

    def repository(self, repo: str) -> Json:
        """The repository, with ``default_branch`` and what the token may do in ``permissions``."""
        return self._get(_repo(repo))

    def issue(self, repo: str, number: int) -> Json | None:
        """The issue (or pull request) of that number, None where there is none."""
        answer = self._request("GET", f"{_repo(repo)}/issues/{number}", absent=(404, 410))
        return None if answer is None else self._json(answer)

    def issues(self, repo: str, *, state: str = "open", labels: str = "", after: int = 0) -> list[Json]:
        """Issues without pull requests, the newest first: the order in which ``gh`` lists them."""
        query = {"state": state, "sort": "created", "direction": "desc", **({"labels": labels} if labels else {})}
        found = self._newer(f"{_repo(repo)}/issues", query, after)
        return [item for item in found if "pull_request" not in item]

    def comments(self, repo: str, number: int, since: str) -> list[Json]:
        """The comments under an issue that were written or changed at ``since`` (as ``utc_now`` writes it) or later."""
        return self._all(f"{_repo(repo)}/issues/{number}/comments", {"since": since})

    def newest_number(self, repo: str) -> int:
        """The number of the newest issue or pull request, 0 where there is none."""
        query = {"state": "all", "sort": "created", "direction": "desc", "per_page": "1"}
        newest = self._json(self._request("GET", f"{_repo(repo)}/issues", params=query))
        return int(newest[0]["number"]) if newest else 0

    def approved_issues(self, repo: str, label: str) -> list[Json]:
        """What the engine may take there: open and approved by a person with ``label``. Each names its ``repo``."""
        return [{**issue, "repo": repo} for issue in self.issues(repo, labels=label)]

    def pulls(self, repo: str, *, state: str = "all", head: str = "", after: int = 0) -> list[Json]:
        """Pull requests, the newest first; ``head`` is a branch of the same owner."""
        query = {"state": state, "sort": "created", "direction": "desc"}
        if head:
            query["head"] = f"{repo.partition('/')[0]}:{head}"
        return self._newer(f"{_repo(repo)}/pulls", query, after)

    def pull_files(self, repo: str, number: int) -> list[Json]:
        """The changed files of a pull request, with ``filename``, ``status``, ``previous_filename``."""
        return self._all(f"{_repo(repo)}/pulls/{number}/files")

    def branches(self, repo: str) -> dict[str, str]:
        """Every branch and the commit at its tip."""
        return {str(item["name"]): str(item["commit"]["sha"]) for item in self._all(f"{_repo(repo)}/branches")}

    def compare(self, repo: str, base: str, head: str) -> Json:
        """How ``head`` stands to ``base``: ``status`` (ahead, behind, identical, diverged), ``total_commits``."""
        return self._get(f"{_repo(repo)}/compare/{quote(base, safe='')}...{quote(head, safe='')}")

    def checks(self, repo: str, sha: str) -> dict[str, str]:
        """What ran on a commit, by name: ``success neutral skipped pending failure`` and the like.

        Of several of one name, as two workflows may have, the one that says least good.
        """
        found: dict[str, str] = {}
        for path, key in ((f"/commits/{sha}/status", "statuses"), (f"/commits/{sha}/check-runs", "check_runs")):
            for page in self._pages(f"{_repo(repo)}{path}", key=key):
                for one in page:
                    name = str(one.get("context") or one["name"])
                    result = str(one.get("state") or one["conclusion"] or "pending")
                    if found.get(name, GREEN[0]) in GREEN:
                        found[name] = result
        return found

    # --- what the identity may do

    def may_push(self, repo: str, git_url: str) -> bool:
        """Whether the token may push to ``repo``.

        Where the REST API denies it, git's own door has the last word: of an app's token the API
        says less than it may do.
        """
        if self.repository(repo).get("permissions", {}).get("push"):
            return True
        _check_address("engineering_loop_git_url", git_url, "https://github.com or https://HOST")
        if origin_of(git_url) not in (origin_of(self.api_url), origin_of(self.api_url).replace("://api.", "://", 1)):
            raise LoopError(
                f"engineering_loop_git_url {git_url} is not the forge of engineering_loop_github_api_url"
                f" {self.api_url}, whose token this is"
            )
        basic = base64.b64encode(f"x-access-token:{self._token}".encode()).decode()
        url = f"{git_url.rstrip('/')}/{repo}.git/info/refs?service=git-receive-pack"
        try:
            answer = self._session.get(
                url,
                auth=lambda request: request,  # else a .netrc entry would replace the header below
                headers={"Authorization": f"Basic {basic}", "Accept": "*/*"},
                timeout=self._timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise LoopError(f"GET {url}: {_why(error)}") from None
        if 300 <= answer.status_code < 400:
            raise LoopError(f"GET {url}: {self._problem(answer)}")
        return bool(answer.status_code == 200)

    def may_open_pulls(self, repo: str, branch: str) -> bool:
        """Whether the token may open pull requests in ``repo``, from the refusal of one that cannot exist.

        From a branch to itself there is nothing to merge: who may open any is told so (422), who
        may not is refused before (403, or 404 for what it may not see).
        """
        body = {"title": "May this token open pull requests?", "head": branch, "base": branch, "draft": True}
        try:
            answer = self._request("POST", f"{_repo(repo)}/pulls", body=body, absent=(422,))
        except Refused as error:
            if error.status in (403, 404):
                return False
            raise
        if answer is not None:
            raise LoopError(
                f"{self.api_url} opened a pull request from {branch} to itself: this is no forge of GitHub's"
            )
        return True

    # --- as a GitHub App, whose "token" is a signed statement of who it is

    def app(self) -> Json:
        """The App itself, with its ``slug``."""
        return self._get("/app")

    def installation_token(self, installation: int) -> Json:
        """A new token of one installation of the App: ``token`` and ``expires_at``."""
        path = f"/app/installations/{installation}/access_tokens"
        answer = self._json(self._request("POST", path))
        if not isinstance(answer, dict) or not isinstance(answer.get("token"), str):
            raise LoopError(f"POST {self.api_url}{path} gave no token")
        return answer

    # --- writing

    def create_draft_pull(self, repo: str, *, title: str, body: str, head: str, base: str) -> Json:
        """Open a pull request as a draft; what the forge has of it then."""
        wanted = {"title": title, "body": body, "head": head, "base": base, "draft": True}
        made: Json = self._json(self._request("POST", f"{_repo(repo)}/pulls", body=wanted))
        return made

    def close_pull(self, repo: str, number: int) -> None:
        """Close a pull request without merging it."""
        self._request("PATCH", f"{_repo(repo)}/pulls/{number}", body={"state": "closed"})

    def request_reviewers(self, repo: str, number: int, reviewers: Sequence[str]) -> None:
        """Ask these users to review a pull request. Refused (422) where one of them is no collaborator."""
        self._request("POST", f"{_repo(repo)}/pulls/{number}/requested_reviewers", body={"reviewers": [*reviewers]})

    def comment(self, repo: str, number: int, text: str) -> Json:
        """Write a comment under an issue or pull request; what the forge has of it then."""
        made: Json = self._json(self._request("POST", f"{_repo(repo)}/issues/{number}/comments", body={"body": text}))
        return made

    def add_labels(self, repo: str, number: int, labels: Sequence[str]) -> None:
        """Put labels on an issue or pull request. One that the repository does not have is made by the forge."""
        self._request("POST", f"{_repo(repo)}/issues/{number}/labels", body={"labels": [*labels]})

    def delete_branch(self, repo: str, branch: str) -> None:
        """Delete a branch; one that is gone already is fine."""
        path = f"{_repo(repo)}/git/refs/heads/{_branch(branch)}"
        self._request("DELETE", path, absent=(404, 422))

    def remove_label(self, repo: str, number: int, label: str) -> None:
        """Take a label off an issue; one that is not there is fine."""
        self._request("DELETE", f"{_repo(repo)}/issues/{number}/labels/{quote(label, safe='')}", absent=(404,))

    # --- the wire

    def _get(self, path: str) -> Json:
        answer = self._request("GET", path)
        found = self._json(answer)
        if not isinstance(found, dict):
            raise LoopError(f"GET {self.api_url}{path} gave {type(found).__name__} where an object was expected")
        return found

    def _json(self, answer: Any) -> Any:
        try:
            return answer.json()
        except ValueError as error:
            raise LoopError(
                f"{answer.url.partition('?')[0]} did not answer with JSON: is"
                f" engineering_loop_github_api_url {self.api_url} the REST address (https://api.github.com, or"
                " https://HOST/api/v3)?"
            ) from error

    def _pages(self, path: str, query: dict[str, str] | None = None, *, key: str = "") -> Iterator[list[Json]]:
        """The pages of a list, or of the list that an object has under ``key``."""
        url: str | None = path
        params: dict[str, str] | None = {**(query or {}), "per_page": "100"}
        for _page in range(MAX_PAGES):
            answer = self._request("GET", url or "", params=params)
            found = self._json(answer)
            if key and isinstance(found, dict):
                found = found.get(key)
            if not isinstance(found, list):
                raise LoopError(f"GET {self.api_url}{path} gave {type(found).__name__} where a list was expected")
            yield found
            following = answer.links.get("next", {}).get("url")
            if not following:
                return
            if not self._is_own(following):
                raise LoopError(
                    f"{self.api_url}{path} names a next page on another address: check engineering_loop_github_api_url"
                )
            url, params = following[len(self.api_url) :], None
        raise LoopError(f"GET {self.api_url}{path} has more than {MAX_PAGES} pages")

    def _newer(self, path: str, query: dict[str, str], after: int) -> list[Json]:
        """Everything with a number above ``after``, of a list that begins with the newest."""
        found: list[Json] = []
        for page in self._pages(path, query):
            found += [item for item in page if item["number"] > after]
            if any(item["number"] <= after for item in page):
                break  # the rest is older still
        return found

    def _all(self, path: str, query: dict[str, str] | None = None) -> list[Json]:
        return [item for page in self._pages(path, query) for item in page]

    def _request(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: Json | None = None,
        absent: tuple[int, ...] = (),
    ) -> Any:
        """The answer, or None where its status is in ``absent``; LoopError for every other failure."""
        what = f"{method} {self.api_url}{path.partition('?')[0]}"
        give_up = time.monotonic() + self._patience
        for attempt in range(1, TRIES + 1):
            answer, again = None, method == "GET"
            try:
                answer = self._send(method, path, params, body)
            except requests.RequestException as error:
                problem = _why(error)
                if not isinstance(error, (requests.ConnectionError, requests.Timeout)):
                    raise LoopError(f"{what}: {problem}") from None
            else:
                if answer.status_code < 300:
                    return answer
                if answer.status_code in absent:
                    return None
                problem = self._problem(answer)
                again = limited_for(answer) is not None or (again and answer.status_code in (502, 503, 504))
            pause = _pause(attempt, answer)
            if not again or attempt == TRIES or time.monotonic() + pause > give_up:
                break
            time.sleep(pause)
        if answer is None:
            raise LoopError(f"{what}: {problem}")
        raise Refused(f"{what}: {problem}", answer.status_code)

    def _send(self, method: str, path: str, params: dict[str, str] | None, body: Json | None) -> Any:
        """One request; of what was read before, only whether it has changed.

        A GET follows where the forge leads within its own API, as for a repository that was renamed.
        """
        url, key = self.api_url + path, f"{path} {sorted((params or {}).items())}"
        known = self._read.get(key) if method == "GET" else None
        headers = {"If-None-Match": known.headers["ETag"]} if known is not None else {}
        for _hop in range(REDIRECTS):
            answer = self._session.request(
                method, url, params=params, json=body, headers=headers, timeout=self._timeout, allow_redirects=False
            )
            following = urljoin(url, answer.headers.get("Location", "")) if answer.is_redirect else ""
            if method != "GET" or not self._is_own(following):
                break
            url, params = following, None
        if answer.status_code == 304 and known is not None:
            return known
        if method == "GET" and answer.status_code < 300 and "ETag" in answer.headers:
            self._read[key] = answer
        return answer

    def _is_own(self, url: str) -> bool:
        """Whether the token may go there: to the forge that it was given for, and nowhere else."""
        return url.startswith(f"{self.api_url}/")

    def _problem(self, answer: Any) -> str:
        """One sentence for a refusal: its status, the forge's own words, what to do."""
        try:
            said = str(answer.json().get("message", ""))
        except (ValueError, AttributeError):
            said = ""
        words = f" ({show(said)})" if said else ""
        return redact(f"HTTP {answer.status_code}{words}; {advice_on(answer, said)}", [self._token])


def _check_address(name: str, url: str, like: str) -> None:
    """Refuse what cannot be the forge's address, or would show the token to the network."""
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.username or parts.query:
        raise LoopError(f"{name} must be like {like}, without credentials")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise LoopError(f"{name} {url} would send the token in the clear: use https")


def _repo(repo: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9._-]+", repo) or repo.endswith(("/.", "/..")):
        raise LoopError(f"{repo!r} is not a repository: write OWNER/NAME")
    return f"/repos/{repo}"


def _branch(name: str) -> str:
    """A branch's name for a URL. Refused where a part of it would lead the URL to another call."""
    if not name or not name.isprintable() or {"", ".", ".."} & {*name.split("/")}:
        raise LoopError(f"{name!r} is not the name of a branch")
    return quote(name, safe="/")


def _pause(attempt: int, answer: Any) -> float:
    """How long to wait before the next attempt: as told, else growing, with jitter against stampedes."""
    told = limited_for(answer) if answer is not None else None
    if told is not None:
        return told + random.uniform(0.0, 1.0)  # noqa: S311 - jitter, no secret
    return random.uniform(0.5, 1.0) * min(8.0, 0.5 * 2.0**attempt)  # noqa: S311 - jitter, no secret


def _why(error: Exception) -> str:
    """The cause in words. The exception's own text is not used: it can hold a proxy's password."""
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy (HTTPS_PROXY) does not answer or refuses"
    if isinstance(error, requests.exceptions.SSLError):
        why = certificate(str(error)) or "its certificate is not for this name"
        return f"{why}. Python of a virtual environment looks where REQUESTS_CA_BUNDLE says"
    if isinstance(error, requests.Timeout):
        return "no answer in time: is the forge reachable from this host?"
    if isinstance(error, requests.ConnectionError):
        return "no connection: is engineering_loop_github_api_url right, and the forge reachable from this host?"
    return f"the request failed ({type(error).__name__})"
