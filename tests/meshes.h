/* SPDX-License-Identifier: Apache-2.0 */
#ifndef MESHES_H
#define MESHES_H

#include <orrery/mesh.h>

/* dp x pp x tp in one process, as an initialiser. */
#define MESH(d, p, t) {.dp = (d), .pp = (p), .tp = (t), .ranks = 1}

#endif
