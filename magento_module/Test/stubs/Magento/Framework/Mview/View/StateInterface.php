<?php

declare(strict_types=1);

namespace Magento\Framework\Mview\View;

interface StateInterface
{
    public const MODE_ENABLED = 'enabled';
    public const MODE_DISABLED = 'disabled';

    public function getMode();

    public function delete();

    public function getData($key = '', $index = null);
}
