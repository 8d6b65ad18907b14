"""Silhouettes that are corrected by the other cameras' hull and by the pixels, on the demo's true masks, damaged."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mousefacelift.recordings.silhouettes.refine import refine_views
from support.maskdamage import (
    blurred,
    demo_frames,
    demo_rig,
    holed,
    iou,
    narrow,
    shadowed,
    wide,
    without_tail,
)

RIG = demo_rig()
TAIL_VIEWS = {20: 4, 120: 0}  # a view that shows the whole tail beside the body


@pytest.fixture(scope="module")
def frames():
    return demo_frames(range(20, 121, 100))


def before_and_after(frame, masks, views=range(6)):
    refined = refine_views(frame.images, masks, RIG)
    return [np.array([iou(each[v], frame.masks[v]) for v in views]) for each in (masks, refined)]


def test_true_masks_are_returned_as_they_are(frames):
    for frame in frames:
        refined = refine_views(frame.images, frame.masks, RIG)
        assert all(made is given for made, given in zip(refined, frame.masks, strict=True))


def test_masks_that_lost_some_detail_are_not_made_worse(frames):
    for frame in frames:
        before, after = before_and_after(frame, [blurred(mask) for mask in frame.masks])
        assert (after > before - 0.002).all()


def test_masks_that_are_too_wide_shrink_to_the_mouse(frames):
    for frame in frames:
        before, after = before_and_after(frame, [wide(mask) for mask in frame.masks])
        assert before.mean() < 0.92 and after.mean() > 0.96


def test_one_mask_that_is_too_wide_shrinks_alone(frames):
    for frame in frames:
        masks = [wide(mask) if v == 2 else mask for v, mask in enumerate(frame.masks)]
        refined = refine_views(frame.images, masks, RIG)
        assert iou(refined[2], frame.masks[2]) > iou(masks[2], frame.masks[2]) + 0.04
        assert all(refined[v] is masks[v] for v in range(6) if v != 2)


def test_masks_that_are_too_narrow_grow_to_the_mouse(frames):
    for frame in frames:
        before, after = before_and_after(frame, [narrow(mask) for mask in frame.masks])
        assert before.mean() < 0.91 and after.mean() > 0.96


def test_holes_are_filled(frames):
    for frame in frames:
        masks = [holed(mask, 6 * frame.number + v) for v, mask in enumerate(frame.masks)]
        before, after = before_and_after(frame, masks)
        assert (1 - after.mean()) < 0.5 * (1 - before.mean()) and (after >= before).all()


def test_a_shadow_on_the_floor_is_removed_although_all_cameras_agree_on_it(frames):
    for frame in frames:
        masks = [shadowed(mask, frame.number, v) for v, mask in enumerate(frame.masks)]
        before, after = before_and_after(frame, masks)
        assert (1 - after.mean()) < 0.5 * (1 - before.mean()) and (after >= before - 0.002).all()


def test_most_shadows_in_one_camera_alone_are_removed(frames):
    frame, lost = frames[1], []
    for view in range(6):
        masks = [shadowed(mask, frame.number, v) if v == view else mask for v, mask in enumerate(frame.masks)]
        before, after = before_and_after(frame, masks)
        lost.append((1 - before[view], 1 - after[view]))
        assert (np.delete(after, view) > 0.998).all()
    before, after = np.sum(lost, axis=0)
    assert after < 0.5 * before


def test_a_tail_that_one_camera_lost_comes_back(frames):
    for frame in frames:
        view = TAIL_VIEWS[frame.number]
        masks = [without_tail(mask) if v == view else mask for v, mask in enumerate(frame.masks)]
        before, after = before_and_after(frame, masks, [view])
        assert after > before + 0.02
        # Nothing but tail is added.
        added = (refine_views(frame.images, masks, RIG)[view] > 0) & (masks[view] == 0)
        assert (frame.masks[view][added] > 0).mean() > 0.8


def test_nothing_changes_where_calibrations_are_swapped(frames):
    swapped = list(RIG)
    swapped[0], swapped[3] = replace(RIG[3], name=RIG[0].name), replace(RIG[0], name=RIG[3].name)
    for frame in frames:
        for damage in (wide, narrow, lambda mask: holed(mask, 1)):
            masks = [damage(mask) for mask in frame.masks]
            refined = refine_views(frame.images, masks, tuple(swapped))
            assert all(made is given for made, given in zip(refined, masks, strict=True))


@pytest.mark.parametrize("turn_deg", [0.7, 1.5, 3, 8])
def test_a_camera_that_was_moved_is_not_brought_into_agreement(frames, turn_deg):
    for v in (0, 3):
        turn = cv2.Rodrigues(np.array([0, np.deg2rad(turn_deg), 0]))[0]
        moved = [*RIG[:v], replace(RIG[v], R=turn @ RIG[v].R, t=turn @ RIG[v].t), *RIG[v + 1 :]]
        for frame in frames:
            refined = refine_views(frame.images, frame.masks, tuple(moved))
            assert all(iou(made, given) > 0.998 for made, given in zip(refined, frame.masks, strict=True))


def test_nothing_changes_with_fewer_than_three_silhouettes(frames):
    masks = [holed(mask, 1) if v < 2 else None for v, mask in enumerate(frames[0].masks)]
    assert refine_views(frames[0].images, masks, RIG)[:2] == masks[:2]


def test_views_without_a_mask_or_a_picture_stay_so(frames):
    frame = frames[0]
    images = [None, *frame.images[1:]]
    masks = [holed(mask, v) for v, mask in enumerate(frame.masks)]
    masks[1], masks[2] = None, np.zeros((0, 0), np.uint8)
    refined = refine_views(images, masks, RIG)
    assert refined[0] is masks[0] and refined[1] is None and refined[2] is masks[2]
    assert iou(refined[3], frame.masks[3]) > iou(masks[3], frame.masks[3])


def test_pictures_may_be_read_in_parts(frames):
    frame = frames[0]
    masks = [holed(mask, v) for v, mask in enumerate(frame.masks)]

    def part(image):
        return lambda window: image[window[1] :, window[0] :][: window[3], : window[2]].copy()

    whole, parts = (refine_views(each, masks, RIG) for each in (frame.images, [part(i) for i in frame.images]))
    assert all(np.array_equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_the_same_masks_come_out_on_any_number_of_threads(frames):
    frame, threads = frames[0], cv2.getNumThreads()
    masks = [holed(shadowed(wide(mask), frame.number, v), v) for v, mask in enumerate(frame.masks)]
    made = []
    try:
        for count in (1, 2):
            cv2.setNumThreads(count)
            # At other addresses, too.
            images = [np.pad(image, ((0, 0), (0, count), (0, 0)))[:, :-count] for image in frame.images]
            made.append(refine_views(images, masks, RIG))
    finally:
        cv2.setNumThreads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(*made, strict=True))
