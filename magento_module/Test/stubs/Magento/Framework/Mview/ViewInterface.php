<?php

declare(strict_types=1);

namespace Magento\Framework\Mview;

interface ViewInterface
{
    public function getId();

    public function getData($key = '', $index = null);

    public function getSubscriptions();

    public function getState();

    public function getChangelog();

    public function isEnabled();

    public function subscribe();

    public function unsubscribe();

    public function initSubscriptionInstance(array $subscriptionConfig);
}
