import pytest

from mmadclr.distributed.wrappers import ddp_settings


@pytest.mark.parametrize(
    ('scope', 'config', 'wrapper', 'static'),
    [
        ('mmadclr', {}, {}, True),
        ('mmadclr', {'optim_wrapper': {'accumulative_counts': 2}}, {}, False),
        ('mmadclr', {'find_unused_parameters': True}, {}, False),
        ('mmadclr', {}, {'find_unused_parameters': True}, False),
        ('mmadclr', {}, {'static_graph': False}, False),
        ('mmdet', {}, {}, False),
        ('mmdet', {}, {'static_graph': True}, True),
    ],
)
def test_static_graph_where_every_backward_pass_is_the_same(scope, config, wrapper, static):
    settings = ddp_settings(config, wrapper, scope == 'mmadclr')
    assert settings['static_graph'] is static
    assert settings['gradient_as_bucket_view'] is True
    assert settings['broadcast_buffers'] is False


def test_wrapper_settings_come_before_the_defaults():
    assert ddp_settings({}, {'gradient_as_bucket_view': False}, True)['gradient_as_bucket_view'] is False


def test_static_graph_and_accumulated_batches():
    with pytest.raises(ValueError, match='static_graph=True in model_wrapper_cfg does not support accumulative_counts'):
        ddp_settings({'optim_wrapper': {'accumulative_counts': 2}}, {'static_graph': True}, True)
